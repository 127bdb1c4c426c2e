package kube

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/transport"
)

// Credentials of a Pod, as the kubelet mounts them.
const (
	DefaultTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	DefaultCAFile    = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
	// DefaultServerName is in the certificate of every API server, because Pods connect to it by this name.
	DefaultServerName = "kubernetes.default.svc"
)

// Config is how to reach the API server before the cluster has a network: by addresses, not by its Service.
type Config struct {
	// Kubeconfig is a file with server and credentials. If it is set, the three fields below are not used.
	Kubeconfig string
	TokenFile  string // bearer token, read again each minute and after the server has refused it
	CAFile     string // PEM; the authorities that sign API servers
	ServerName string // what the servers' certificate must be for
	UserAgent  string
	// QPS bounds requests per second of one client; 0 is 50.
	QPS float32
}

// Connection is a client of the API server that tries several addresses. Its methods may be called from several goroutines.
type Connection struct {
	Client  kubernetes.Interface
	Dynamic dynamic.Interface // for the kinds of warren.dev
	dial    *dialer
}

// Connect prepares a connection. It does not wait for a server, and succeeds while all are unreachable. servers are tried in
// their order, each as "address:port"; the last server that answered is tried first.
func Connect(c Config, servers []string) (*Connection, error) {
	d := &dialer{}
	d.set(servers)
	rc, err := c.rest(d)
	if err != nil {
		return nil, err
	}
	rc.UserAgent = c.UserAgent
	rc.QPS, rc.Burst = 50, 100
	if c.QPS > 0 {
		rc.QPS, rc.Burst = c.QPS, int(2*c.QPS)
	}
	// Decoding Protobuf takes a fraction of the time of JSON, which matters for the lists of a large cluster.
	rc.AcceptContentTypes, rc.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
	both, err := rest.HTTPClientFor(rc) // one connection for all
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	client, err := kubernetes.NewForConfigAndClient(rc, both)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	own, err := dynamic.NewForConfigAndClient(rc, both)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	return &Connection{Client: client, Dynamic: own, dial: d}, nil
}

func (c Config) rest(d *dialer) (*rest.Config, error) {
	if c.Kubeconfig != "" {
		rc, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("kubeconfig %s: %w", c.Kubeconfig, err)
		}
		return rc, nil
	}
	var errs []error
	for _, f := range []struct{ what, path string }{{"token", c.TokenFile}, {"CA", c.CAFile}} {
		if _, err := os.Stat(f.path); err != nil {
			errs = append(errs, fmt.Errorf("kubernetes %s file: %w", f.what, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	// client-go reads a BearerTokenFile once a minute. This token source reads it also after the server has refused the token.
	token := transport.NewCachedFileTokenSource(c.TokenFile)
	return &rest.Config{
		Host:            "https://" + c.ServerName,
		WrapTransport:   transport.Wrappers(transport.ResettableTokenSourceWrapTransport(token), d.observe),
		TLSClientConfig: rest.TLSClientConfig{CAFile: c.CAFile, ServerName: c.ServerName},
		Dial:            d.DialContext,
	}, nil
}

// SetServers replaces the addresses for new connections. Open connections are kept.
func (c *Connection) SetServers(servers []string) { c.dial.set(servers) }

// Servers are the addresses in the order in which they are tried.
func (c *Connection) Servers() []string { return c.dial.order() }

// DefaultPort is that of API servers.
const DefaultPort = 6443

// ParseServer reads "address", "address:port", "name:port" or "https://...", and returns "host:port".
func ParseServer(s string) (string, error) {
	h := strings.TrimSuffix(strings.TrimPrefix(s, "https://"), "/")
	if a, err := netip.ParseAddr(strings.Trim(h, "[]")); err == nil {
		return netip.AddrPortFrom(a, DefaultPort).String(), nil
	}
	host, port, err := net.SplitHostPort(h)
	if err != nil && !strings.Contains(h, ":") {
		host, port, err = h, strconv.Itoa(DefaultPort), nil
	}
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || host == "" || strings.ContainsAny(host, "/ ") {
		return "", fmt.Errorf("%q is not an API server's address such as 192.0.2.10:6443", s)
	}
	return net.JoinHostPort(host, port), nil
}
