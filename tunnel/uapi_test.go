package tunnel

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/warrennet/warren/internal/model"
)

// logBuffer collects log lines of several goroutines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// request sends one request over the node's real socket.
func (n *node) request(t *testing.T, text string) string {
	t.Helper()
	c, err := net.Dial("unix", filepath.Join(n.cfg.UAPIDir, n.cfg.Name+".sock"))
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, text)
	must(t, err)
	var out strings.Builder
	in := bufio.NewReader(c)
	for {
		line, err := in.ReadString('\n')
		out.WriteString(line)
		if err != nil || line == "\n" {
			return out.String()
		}
	}
}

func hexOf(k model.Key) string { return hex.EncodeToString(k[:]) }

func TestUAPI_EachRequest_IsAnsweredByPolicy(t *testing.T) {
	noLeaks(t)
	n := newNetwork()
	var log logBuffer
	a := startNode(t, 1, n.bind("192.0.2.1:51820"), 51820, nil, func(c *Config,
		_ *parts) {
		c.Log = slog.New(slog.NewTextHandler(&log, nil))
	})
	store, external := key(3), key(4)
	must(t, a.SetPeers([]Peer{{Name: "store", PublicKey: store, AllowedIPs: ipsB, Endpoints: addrPorts("192.0.2.2:51820")},
		{Name: "guest", PublicKey: external, AllowedIPs: prefixes("10.50.0.0/24"), External: true}}))
	const good, refused, invalid = "errno=0\n\n", "errno=-1\n\n", "errno=-22\n\n"
	peer := "set=1\npublic_key=" + hexOf(store) + "\n"
	for _, c := range []struct{ name, request, answer, log string }{
		{"same key", "set=1\nprivate_key=" + hexOf(a.cfg.PrivateKey) + "\n\n", good, ""},
		{"other key", "set=1\nprivate_key=" + hexOf(key(9)) + "\n\n", refused, "private key"},
		{"same port", "set=1\nlisten_port=51820\n\n", good, ""},
		{"other port", "set=1\nlisten_port=1\n\n", refused, "listen port"},
		{"mark", "set=1\nfwmark=7\n\n", refused, "mark"},
		{"new peer", "set=1\npublic_key=" + hexOf(key(7)) + "\nallowed_ip=10.9.0.0/16\n\n", refused, "warren peer add"},
		{"unknown removed", "set=1\npublic_key=" + hexOf(key(7)) + "\nremove=true\n\n", good, ""},
		{"store peer removed", peer + "remove=true\n\n", good, "object=peer"},
		{"allowed ips", peer + "replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n\n", good, "allowed ips"},
		{"one allowed ip", peer + "allowed_ip=-10.42.1.0/24\n\n", good, "allowed ips"},
		{"same allowed ips", peer + "replace_allowed_ips=true\nallowed_ip=10.42.1.0/24\nallowed_ip=fd42:0:0:1::/64\n\n", good, ""},
		{"keepalive", peer + "persistent_keepalive_interval=9\n\n", good, "persistent keepalive"},
		{"preshared key", peer + "preshared_key=" + hexOf(key(8)) + "\n\n", good, "preshared key"},
		{"endpoint", peer + "endpoint=192.0.2.77:1\n\n", good, ""},
		{"all replaced", "set=1\nreplace_peers=true\n\n", good, "object=peer"},
		{"bad port", "set=1\nlisten_port=x\n\n", invalid, ""},
		{"bad peer line", peer + "allowed_ip=everything\n\n", invalid, ""},
		{"unknown name", "set=1\ncolour=red\n\n", invalid, ""},
		{"no value", "set=1\nprivate_key\n\n", "errno=-71\n\n", ""},
		{"no operation", "dance=1\n\n", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			log.b.Reset()
			if got := a.request(t, c.request); got != c.answer {
				t.Errorf("answered %q, want %q", got, c.answer)
			}
			if c.log == "" && log.String() != "" || !strings.Contains(log.String(), c.log) {
				t.Errorf("logged %q, want %q", log.String(), c.log)
			}
			if secret := hexOf(a.cfg.PrivateKey); strings.Contains(log.String(), secret) {
				t.Error("the log shows a private key")
			}
		})
	}
	get := a.request(t, "get=1\n\n")
	for _, want := range []string{"listen_port=51820", "public_key=" + hexOf(store), "endpoint=192.0.2.77:1", "allowed_ip=10.42.1.0/24",
		"public_key=" + hexOf(external), "persistent_keepalive_interval=0", "errno=0\n\n"} {
		if !strings.Contains(get, want) {
			t.Errorf("get does not show %q:\n%s", want, get)
		}
	}
	if strings.Contains(get, "10.0.0.0/8") || strings.Contains(get, "192.0.2.2") {
		t.Error("a refused change was applied")
	}
}

func TestUAPI_EndlessRequests_AreRefused(t *testing.T) {
	a := startNode(t, 1, newNetwork().bind("192.0.2.1:51820"), 51820, nil)
	long := "set=1\nlisten_port=" + strings.Repeat("1", 5000) + "\n\n"
	if got := a.request(t, long); got != "errno=-71\n\n" {
		t.Errorf("a line of 5000 bytes: %q", got)
	}
	many := "set=1\n" + strings.Repeat("listen_port=51820\n", 1<<20/18+1) + "\n"
	if got := a.request(t, many); got == "errno=0\n\n" {
		t.Error("a request without end was accepted")
	}
	if got := a.request(t, "get=1\n\n"); !strings.Contains(got, "errno=0") {
		t.Error("the socket has stopped answering")
	}
}
