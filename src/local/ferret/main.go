// Command ferretdb speaks MongoDB's wire protocol on 127.0.0.1 and keeps its documents in SQLite files below a folder.
//
//	ferretdb <folder> <port> [<tls-port> <certificate> <key>]
package main

import (
	"context"
	"log"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if len(os.Args) != 3 && len(os.Args) != 6 {
		log.Fatal("usage: ferretdb <folder> <port> [<tls-port> <certificate> <key>]")
	}
	folder, err := filepath.Abs(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	config := &ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{TCP: "127.0.0.1:" + os.Args[2]},
		Handler:   "sqlite",
		SQLiteURL: (&url.URL{Scheme: "file", Opaque: (&url.URL{Path: folder}).EscapedPath() + "/"}).String(),
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	if len(os.Args) == 6 {
		config.Listener.TLS = "127.0.0.1:" + os.Args[3]
		config.Listener.TLSCertFile = os.Args[4]
		config.Listener.TLSKeyFile = os.Args[5]
	}
	server, err := ferretdb.New(config)
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := server.Run(ctx); err != nil {
		log.Fatal(err)
	}
}
