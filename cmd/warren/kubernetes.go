package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/controller"
	"github.com/warrennet/warren/internal/store/kube"
	"golang.org/x/sync/errgroup"
)

// apiFlags are the settings with which the programs on control-plane nodes reach the API server. Each has an environment
// variable, which the manifests set.
type apiFlags struct {
	kubeconfig string
	servers    []string
	serverName string
	hostIP     string
	node       string
	namespace  string
	configs    []string // files that may name servers
}

func (a *apiFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.kubeconfig, "kubeconfig", os.Getenv("WARREN_KUBERNETES_KUBECONFIG"),
		"file with the API server and credentials (default: the Pod's own)")
	f.StringSliceVar(&a.servers, "servers", splitList(os.Getenv("WARREN_KUBERNETES_SERVERS")),
		"addresses of API servers, tried before those found otherwise")
	f.StringVar(&a.serverName, "server-name", envOr("WARREN_KUBERNETES_SERVER_NAME", kube.DefaultServerName),
		"name in the API servers' certificates")
	f.StringVar(&a.hostIP, "host-ip", os.Getenv("WARREN_KUBERNETES_HOST_IP"), "address of this node")
	f.StringVar(&a.node, "node-name", os.Getenv("WARREN_NODE_NAME"), "name of this node")
	f.StringSliceVar(&a.configs, "server-files", splitList(os.Getenv("WARREN_KUBERNETES_SERVER_FILES")),
		"config.yaml and cluster.yaml, which may name API servers; missing files are ignored")
	f.StringVar(&a.namespace, "namespace", envOr("WARREN_NAMESPACE", "warren-system"), "namespace of warren's own objects")
}

// candidates are the API servers to try: those of the flag, of the operator's config.yaml and of cluster.yaml, in this order,
// then those of kube.Candidates.
func (a *apiFlags) candidates() (out []string, err error) {
	lists := [][]string{a.servers}
	for _, file := range a.configs {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the ConfigMap does not exist yet
		}
		servers, err := controller.Servers(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		lists = append(lists, servers)
	}
	return kube.Candidates{Configured: slices.Concat(lists...), HostIP: a.hostIP}.List()
}

// connect makes a connection that identifies itself with a user agent.
func (a *apiFlags) connect(agent string) (*kube.Connection, error) {
	servers, err := a.candidates()
	if err != nil {
		return nil, err
	}
	return kube.Connect(kube.Config{Kubeconfig: a.kubeconfig, TokenFile: kube.DefaultTokenFile, CAFile: kube.DefaultCAFile,
		ServerName: a.serverName, UserAgent: agent}, servers)
}

// followEvery is how often the files are read for other servers; the kubelet updates mounted ConfigMaps within a minute.
const followEvery = 10 * time.Second

// follow keeps the connection's servers up to date with the files, until ctx ends.
func (a *apiFlags) follow(ctx context.Context, conn *kube.Connection) error {
	kube.FollowFiles(ctx, a.configs, followEvery, func() {
		if servers, err := a.candidates(); err == nil {
			conn.SetServers(servers)
		}
	})
	return nil
}

// with runs work while the connection follows the files.
func (a *apiFlags) with(ctx context.Context, conn *kube.Connection, work func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.follow(ctx, conn) })
	g.Go(func() error { defer cancel(); return work(ctx) })
	return g.Wait()
}

func envOr(key, fallback string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return fallback
}

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
