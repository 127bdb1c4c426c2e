package main

import (
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/warrennet/warren/internal/store/kube"
)

// apiFlags say how the programs on control-plane nodes reach the API server. Each has an environment variable, which is
// how the manifests set it.
type apiFlags struct {
	kubeconfig string
	servers    []string
	serverName string
	hostIP     string
	node       string
	namespace  string
}

func (a *apiFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.kubeconfig, "kubeconfig", os.Getenv("WARREN_KUBERNETES_KUBECONFIG"), "file with the API server and credentials (default: the Pod's own)")
	f.StringSliceVar(&a.servers, "servers", splitList(os.Getenv("WARREN_KUBERNETES_SERVERS")), "addresses of API servers, before those that are found")
	f.StringVar(&a.serverName, "server-name", envOr("WARREN_KUBERNETES_SERVER_NAME", kube.DefaultServerName), "name in the API servers' certificates")
	f.StringVar(&a.hostIP, "host-ip", os.Getenv("WARREN_KUBERNETES_HOST_IP"), "address of this node")
	f.StringVar(&a.node, "node-name", os.Getenv("WARREN_NODE_NAME"), "name of this node")
	f.StringVar(&a.namespace, "namespace", envOr("WARREN_NAMESPACE", "warren-system"), "namespace of warren's own objects")
}

// first are the servers to try when nothing else is known: on a control-plane node one of them answers.
func (a *apiFlags) first() (out []string, err error) {
	for _, s := range a.servers {
		p, err := kube.ParseServer(s)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	port := strconv.Itoa(kube.DefaultPort)
	if ip, err := netip.ParseAddr(a.hostIP); err == nil {
		out = append(out, net.JoinHostPort(ip.String(), port))
	}
	return append(out, "127.0.0.1:"+port), nil
}

func (a *apiFlags) connect(agent string) (*kube.Connection, error) {
	servers, err := a.first()
	if err != nil {
		return nil, err
	}
	return kube.Connect(kube.Config{Kubeconfig: a.kubeconfig, TokenFile: kube.DefaultTokenFile, CAFile: kube.DefaultCAFile,
		ServerName: a.serverName, UserAgent: agent}, servers)
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
