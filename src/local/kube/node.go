package main

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
)

// Stands for scheduler and kubelet: it binds each pod to its one node and says of its containers what a kubelet would, without
// running any. What it says follows from the pod itself, as on a real node:
//
//   - a Secret or ConfigMap, or a key of one, that the pod needs and that is missing: CreateContainerConfigError
//   - image tag `missing`: ImagePullBackOff; `crashes`: CrashLoopBackOff; `slow`: running, never ready
//   - request of more than 1000 CPUs: not scheduled
//   - anything else is ready at once; a pod of a Job has succeeded at once
//
// The annotation `holdfast.local/started-with` of a pod names the versions of what its environment was made of when it started.
const nodeName = "node-1"
const startedWith = "holdfast.local/started-with"

type node struct {
	client     kubernetes.Interface
	pods       listers.PodLister
	secrets    listers.SecretLister
	configMaps listers.ConfigMapLister
}

func newNode(client kubernetes.Interface, shared informers.SharedInformerFactory) *node {
	informers := shared.Core().V1()
	return &node{client: client, pods: informers.Pods().Lister(), secrets: informers.Secrets().Lister(), configMaps: informers.ConfigMaps().Lister()}
}

func (n *node) register(ctx context.Context) {
	made, err := n.client.CoreV1().Nodes().Create(ctx, &core.Node{ObjectMeta: meta.ObjectMeta{Name: nodeName}}, meta.CreateOptions{})
	if err != nil {
		log.Fatal(err)
	}
	made.Spec.Taints = nil
	if made, err = n.client.CoreV1().Nodes().Update(ctx, made, meta.UpdateOptions{}); err != nil {
		log.Fatal(err)
	}
	made.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue, LastHeartbeatTime: meta.Now(), LastTransitionTime: meta.Now(), Reason: "StandIn"}}
	if _, err = n.client.CoreV1().Nodes().UpdateStatus(ctx, made, meta.UpdateOptions{}); err != nil {
		log.Fatal(err)
	}
}

func (n *node) run(ctx context.Context) {
	for {
		pods, err := n.pods.List(labels.Everything())
		if err != nil {
			log.Print(err)
		}
		for _, pod := range pods {
			// Our view may be older than the server's: the next round sees the newer one.
			if err := n.look(ctx, pod.DeepCopy()); err != nil && !errors.IsConflict(err) && !errors.IsNotFound(err) {
				log.Printf("pod %s/%s: %v", pod.Namespace, pod.Name, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (n *node) look(ctx context.Context, pod *core.Pod) error {
	pods := n.client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		return pods.Delete(ctx, pod.Name, meta.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &meta.Preconditions{UID: &pod.UID}})
	}
	if pod.Status.Phase == core.PodSucceeded || pod.Status.Phase == core.PodFailed || ready(pod) {
		return nil
	}
	if pod.Spec.NodeName == "" {
		if tooLarge(pod) {
			return n.say(ctx, pod, core.PodStatus{Phase: core.PodPending, Conditions: []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionFalse, Reason: core.PodReasonUnschedulable, Message: "0/1 nodes are available: 1 Insufficient cpu."}}})
		}
		return pods.Bind(ctx, &core.Binding{ObjectMeta: meta.ObjectMeta{Name: pod.Name, UID: pod.UID}, Target: core.ObjectReference{Kind: "Node", Name: nodeName}}, meta.CreateOptions{})
	}
	versions, missing := n.needs(pod)
	if missing == "" && pod.Annotations[startedWith] == "" && versions != "" {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[startedWith] = versions
		updated, err := pods.Update(ctx, pod, meta.UpdateOptions{})
		if err != nil {
			return err
		}
		pod = updated
	}
	return n.say(ctx, pod, statusOf(pod, missing))
}

func (n *node) say(ctx context.Context, pod *core.Pod, status core.PodStatus) error {
	if pod.Status.Phase == status.Phase && len(pod.Status.ContainerStatuses) == len(status.ContainerStatuses) && reasonOf(pod.Status) == reasonOf(status) {
		return nil
	}
	status.HostIP, status.PodIP, status.QOSClass, status.ObservedGeneration = "127.0.0.1", "127.0.0.1", pod.Status.QOSClass, pod.Generation
	started := meta.Now()
	status.StartTime = &started
	for index := range status.Conditions {
		status.Conditions[index].LastTransitionTime = started
	}
	pod.Status = status
	_, err := n.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, meta.UpdateOptions{})
	return err
}

func statusOf(pod *core.Pod, missing string) core.PodStatus {
	status := core.PodStatus{Phase: core.PodRunning, Conditions: []core.PodCondition{{Type: core.PodScheduled, Status: core.ConditionTrue}}}
	all := true
	for _, container := range pod.Spec.Containers {
		tag := container.Image[strings.LastIndex(container.Image, ":")+1:]
		said := core.ContainerStatus{Name: container.Name, Image: container.Image}
		running := core.ContainerState{Running: &core.ContainerStateRunning{StartedAt: meta.Now()}}
		switch {
		case missing != "":
			said.State.Waiting = &core.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: missing}
			status.Phase = core.PodPending
		case tag == "missing":
			said.State.Waiting = &core.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: fmt.Sprintf("Back-off pulling image %q", container.Image)}
			status.Phase = core.PodPending
		case tag == "crashes":
			said.State.Waiting = &core.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf("back-off 10s restarting failed container=%s pod=%s", container.Name, pod.Name)}
			said.LastTerminationState.Terminated = &core.ContainerStateTerminated{ExitCode: 1, Reason: "Error", FinishedAt: meta.Now()}
			said.RestartCount = 3
		case tag == "slow":
			said.State = running
		case ofJob(pod):
			said.State.Terminated = &core.ContainerStateTerminated{ExitCode: 0, Reason: "Completed", FinishedAt: meta.Now()}
			status.Phase = core.PodSucceeded
		default:
			said.State, said.Ready = running, true
		}
		all = all && said.Ready
		status.ContainerStatuses = append(status.ContainerStatuses, said)
	}
	for _, kind := range []core.PodConditionType{core.ContainersReady, core.PodReady} {
		condition := core.PodCondition{Type: kind, Status: core.ConditionTrue}
		if !all {
			condition.Status, condition.Reason = core.ConditionFalse, "ContainersNotReady"
		}
		status.Conditions = append(status.Conditions, condition)
	}
	return status
}

// The versions of what the pod's environment and volumes take, or what of it is missing.
func (n *node) needs(pod *core.Pod) (versions string, missing string) {
	var seen []string
	secret := func(name, key string, optional *bool) {
		found, err := n.secrets.Secrets(pod.Namespace).Get(name)
		if err != nil {
			found = nil
		}
		var data map[string][]byte
		if found != nil {
			data = found.Data
			seen = append(seen, "secret/"+name+"@"+found.ResourceVersion)
		}
		missing = firstOf(missing, absent("secret", "Secret", pod.Namespace, name, key, found != nil, has(data, key), optional))
	}
	configMap := func(name, key string, optional *bool) {
		found, err := n.configMaps.ConfigMaps(pod.Namespace).Get(name)
		if err != nil {
			found = nil
		}
		var data map[string]string
		if found != nil {
			data = found.Data
			seen = append(seen, "configmap/"+name+"@"+found.ResourceVersion)
		}
		missing = firstOf(missing, absent("configmap", "ConfigMap", pod.Namespace, name, key, found != nil, has(data, key), optional))
	}
	for _, container := range pod.Spec.Containers {
		for _, from := range container.EnvFrom {
			if from.SecretRef != nil {
				secret(from.SecretRef.Name, "", from.SecretRef.Optional)
			}
			if from.ConfigMapRef != nil {
				configMap(from.ConfigMapRef.Name, "", from.ConfigMapRef.Optional)
			}
		}
		for _, variable := range container.Env {
			if variable.ValueFrom == nil {
				continue
			}
			if from := variable.ValueFrom.SecretKeyRef; from != nil {
				secret(from.Name, from.Key, from.Optional)
			}
			if from := variable.ValueFrom.ConfigMapKeyRef; from != nil {
				configMap(from.Name, from.Key, from.Optional)
			}
		}
	}
	return strings.Join(seen, " "), missing
}

func absent(lower, kind, namespace, name, key string, found, hasKey bool, optional *bool) string {
	if optional != nil && *optional {
		return ""
	}
	if !found {
		return fmt.Sprintf("%s %q not found", lower, name)
	}
	if key != "" && !hasKey {
		return fmt.Sprintf("couldn't find key %s in %s %s/%s", key, kind, namespace, name)
	}
	return ""
}

func has[V any](data map[string]V, key string) bool {
	_, found := data[key]
	return found
}

func firstOf(first, second string) string {
	if first != "" {
		return first
	}
	return second
}

func ready(pod *core.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == core.PodReady {
			return condition.Status == core.ConditionTrue
		}
	}
	return false
}

func reasonOf(status core.PodStatus) string {
	reasons := ""
	for _, container := range status.ContainerStatuses {
		if container.State.Waiting != nil {
			reasons += container.State.Waiting.Reason + container.State.Waiting.Message
		}
		reasons += fmt.Sprint(container.Ready, container.State.Running != nil, container.State.Terminated != nil)
	}
	for _, condition := range status.Conditions {
		if condition.Type == core.PodScheduled {
			reasons += condition.Reason
		}
	}
	return reasons
}

func ofJob(pod *core.Pod) bool {
	for _, owner := range pod.OwnerReferences {
		if owner.Kind == "Job" {
			return true
		}
	}
	return false
}

func tooLarge(pod *core.Pod) bool {
	for _, container := range pod.Spec.Containers {
		if container.Resources.Requests.Cpu().Value() > 1000 {
			return true
		}
	}
	return false
}
