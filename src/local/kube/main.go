// A Kubernetes control plane in one process, for the demo and the tests: etcd, kube-apiserver and the controllers of workloads, each
// Kubernetes' own code. What stands in is the node (node.go): nothing here runs containers.
//
//	kube DIRECTORY API-PORT ETCD-PORT ETCD-PEER-PORT TOKENS-FILE
package main

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/csv"
	"encoding/pem"
	"fmt"
	"log"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/pkg/controller/cronjob"
	"k8s.io/kubernetes/pkg/controller/daemon"
	"k8s.io/kubernetes/pkg/controller/deployment"
	"k8s.io/kubernetes/pkg/controller/job"
	"k8s.io/kubernetes/pkg/controller/replicaset"
	"k8s.io/kubernetes/pkg/controller/statefulset"
)

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: kube DIRECTORY API-PORT ETCD-PORT ETCD-PEER-PORT TOKENS-FILE")
	}
	directory, port, etcdPort, peerPort, tokens := os.Args[1], os.Args[2], os.Args[3], os.Args[4], os.Args[5]
	startEtcd(filepath.Join(directory, "etcd"), etcdPort, peerPort)
	certificates := filepath.Join(directory, "certificates")
	key := serviceAccountKey(directory)
	go runControllers("https://127.0.0.1:"+port, filepath.Join(certificates, "apiserver.crt"), adminToken(tokens))

	command := apiserver.NewAPIServerCommand()
	command.SetArgs([]string{
		"--etcd-servers=http://127.0.0.1:" + etcdPort,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + certificates,
		"--token-auth-file=" + tokens, "--authorization-mode=RBAC", "--anonymous-auth=false",
		"--service-cluster-ip-range=10.0.0.0/24", "--endpoint-reconciler-type=none",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-signing-key-file=" + key, "--service-account-key-file=" + key,
		// No controller makes the service account of a namespace here.
		"--disable-admission-plugins=ServiceAccount",
	})
	if err := command.Execute(); err != nil {
		log.Fatal(err)
	}
}

func startEtcd(directory, port, peerPort string) {
	config := embed.NewConfig()
	config.Dir = directory
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	client, peer := loopback(port), loopback(peerPort)
	config.ListenClientUrls, config.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	config.ListenPeerUrls, config.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		log.Fatal(err)
	}
	<-etcd.Server.ReadyNotify()
}

func loopback(port string) url.URL {
	return url.URL{Scheme: "http", Host: "127.0.0.1:" + port}
}

func serviceAccountKey(directory string) string {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	path := filepath.Join(directory, "service-account.key")
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		log.Fatal(err)
	}
	return path
}

// The first user of the tokens file is the one in system:masters.
func adminToken(path string) string {
	file, err := os.Open(path)
	if err != nil {
		log.Fatal(err)
	}
	defer file.Close()
	rows := csv.NewReader(file)
	rows.FieldsPerRecord = -1
	row, err := rows.Read()
	if err != nil {
		log.Fatal(err)
	}
	return row[0]
}

func runControllers(server, authority, token string) {
	ctx := context.Background()
	client := kubernetes.NewForConfigOrDie(&rest.Config{Host: server, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAFile: waitForFile(authority)}, RateLimiter: flowcontrol.NewFakeAlwaysRateLimiter()})
	for {
		if _, err := client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	shared := informers.NewSharedInformerFactory(client, 0)
	apps, batch, core := shared.Apps().V1(), shared.Batch().V1(), shared.Core().V1()
	deployments := must(deployment.NewDeploymentController(ctx, apps.Deployments(), apps.ReplicaSets(), core.Pods(), client))
	replicaSets := replicaset.NewReplicaSetController(ctx, apps.ReplicaSets(), core.Pods(), client, replicaset.BurstReplicas)
	statefulSets := statefulset.NewStatefulSetController(ctx, core.Pods(), apps.StatefulSets(), core.PersistentVolumeClaims(), apps.ControllerRevisions(), client)
	daemonSets := must(daemon.NewDaemonSetsController(ctx, apps.DaemonSets(), apps.ControllerRevisions(), core.Pods(), core.Nodes(), client, flowcontrol.NewBackOff(time.Second, time.Minute)))
	jobs := must(job.NewController(ctx, core.Pods(), batch.Jobs(), client))
	cronJobs := must(cronjob.NewControllerV2(ctx, batch.Jobs(), batch.CronJobs(), client))
	stand := newNode(client, shared)
	shared.Start(ctx.Done())
	shared.WaitForCacheSync(ctx.Done())
	stand.register(ctx)
	go deployments.Run(ctx, 3)
	go replicaSets.Run(ctx, 3)
	go statefulSets.Run(ctx, 3)
	go daemonSets.Run(ctx, 3)
	go jobs.Run(ctx, 2)
	go cronJobs.Run(ctx, 2)
	fmt.Println("controllers started")
	stand.run(ctx)
}

func waitForFile(path string) string {
	for {
		if _, err := os.Stat(path); err == nil {
			return path
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
