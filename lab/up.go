package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/pki"
	"github.com/warrennet/warren/internal/text"
	"sigs.k8s.io/yaml"
)

// Ports of the lab's etcd.
const (
	etcdClientPort = 2379
	etcdPeerPort   = 2380
)

// Up starts a lab and waits until every node is ready. On failure it removes everything again.
func Up(ctx context.Context, o Options, spec Spec) (*Lab, error) {
	l, err := prepare(o)
	if err != nil {
		return nil, err
	}
	if err := spec.complete(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(l.Exe), "warren-cni")); err != nil {
		return nil, fmt.Errorf("the CNI plugin must be in the directory of %s: %w (run `make build`)", l.Exe, err)
	}
	if _, err := os.Stat(l.path("lab.json")); err == nil {
		return nil, fmt.Errorf("lab %q exists; `warren lab down%s` removes it", l.Name, l.flags())
	}
	l.Spec = spec
	if err := l.up(ctx); err != nil {
		return nil, errors.Join(err, l.Down())
	}
	return l, nil
}

func (l *Lab) up(ctx context.Context) error {
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return err
	}
	if err := l.save(); err != nil {
		return err
	}
	l.out("switch       a bridge in a namespace of its own, no other link")
	if err := l.makeSwitch(); err != nil {
		return err
	}
	for _, m := range append(l.etcdNames(), l.NodeNames()...) {
		if err := l.startMachine(m); err != nil {
			return err
		}
		if err := l.connect(m); err != nil {
			return err
		}
		if err := l.credentials(m); err != nil {
			return err
		}
	}
	for _, m := range l.etcdNames() {
		l.out("%-12s etcd at %s, mutual TLS", m, l.Spec.etcdURL(m, etcdClientPort))
		if err := l.startEtcd(m); err != nil {
			return err
		}
	}
	for _, n := range l.NodeNames() {
		if err := l.configure(n); err != nil {
			return err
		}
		if err := l.StartAgent(n); err != nil {
			return err
		}
	}
	return l.WaitReady(ctx)
}

func (l *Lab) save() error {
	raw, err := json.MarshalIndent(l.Spec, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(l.path("lab.json"), raw, 0o644)
}

// credentials gives a machine its certificate: etcd members may serve, nodes are clients.
func (l *Lab) credentials(machine string) error {
	ca, err := pki.EnsureCA(l.path("pki"), "warren lab "+l.Name)
	if err != nil {
		return err
	}
	dir := filepath.Join(l.machineDir(machine), "lib", "warren-pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	raw, err := os.ReadFile(l.path("pki", "ca.crt"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), raw, 0o644); err != nil {
		return err
	}
	var addrs []netip.Addr
	name := machine
	if strings.HasPrefix(machine, "etcd") {
		name = pki.MemberName
		for _, p := range l.Spec.underlayAddrs(machine) {
			addrs = append(addrs, p.Addr())
		}
	}
	return ca.Issue(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), name, addrs, nil)
}

// pkiInside is the directory of a machine's credentials, inside its namespaces.
const pkiInside = "/var/lib/warren-pki"

func (l *Lab) startEtcd(m string) error {
	pid, err := l.hold(m)
	if err != nil {
		return err
	}
	var initial []string
	for _, e := range l.etcdNames() {
		initial = append(initial, e+"="+l.Spec.etcdURL(e, etcdPeerPort))
	}
	return l.spawn(m, pid, "etcd", Cmd{Args: []string{l.Exe, "etcd", "--name", m, "--data-dir", "/var/lib/etcd",
		"--client-urls", l.Spec.etcdURL(m, etcdClientPort), "--peer-urls", l.Spec.etcdURL(m, etcdPeerPort),
		"--initial-cluster", strings.Join(initial, ","), "--ca-file", pkiInside + "/ca.crt",
		"--cert-file", pkiInside + "/tls.crt", "--key-file", pkiInside + "/tls.key"}})
}

// configure writes a node's agent configuration, inside the node, where a real one has it.
func (l *Lab) configure(node string) error {
	c := map[string]any{
		"nodeName": node,
		"cluster":  "lab-" + l.Name,
		"podCIDRs": l.Spec.PodCIDRs,
		"etcd": map[string]any{"endpoints": l.Spec.etcdURLs(etcdClientPort),
			"caFile": pkiInside + "/ca.crt", "certFile": pkiInside + "/tls.crt", "keyFile": pkiInside + "/tls.key"},
	}
	for _, extra := range []map[string]any{l.Spec.Agent, l.Spec.Node[node].Agent} {
		for k, v := range extra {
			c[k] = v
		}
	}
	raw, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	pid, err := l.hold(node)
	if err != nil {
		return err
	}
	return inside(pid, func() error { return os.WriteFile("/etc/warren/config.yaml", raw, 0o600) })
}

// StartAgent starts a node's agent unless it runs.
func (l *Lab) StartAgent(node string) error {
	if l.Pid(node, "agent") != 0 {
		return nil
	}
	pid, err := l.hold(node)
	if err != nil {
		return err
	}
	return l.spawn(node, pid, "agent", Cmd{Args: []string{l.Exe, "agent"}})
}

// StopAgent ends a node's agent with a signal, SIGTERM or SIGKILL.
func (l *Lab) StopAgent(node string, sig syscall.Signal) error {
	if err := l.checkNode(node); err != nil {
		return err
	}
	return l.kill(l.Pid(node, "agent"), sig)
}

// Restart stops a node's agent and starts it again.
func (l *Lab) Restart(ctx context.Context, node string) error {
	if err := l.StopAgent(node, syscall.SIGTERM); err != nil {
		return err
	}
	if err := l.StartAgent(node); err != nil {
		return err
	}
	return l.waitNode(ctx, node)
}

// StopEtcd ends an etcd member; StartEtcd brings it back with its data.
func (l *Lab) StopEtcd(member string, sig syscall.Signal) error {
	return l.kill(l.Pid(member, "etcd"), sig)
}

// StartEtcd starts an etcd member that does not run.
func (l *Lab) StartEtcd(member string) error {
	if l.Pid(member, "etcd") != 0 {
		return nil
	}
	return l.startEtcd(member)
}

// WaitReady waits until every node can attach Pods.
func (l *Lab) WaitReady(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, l.Spec.Nodes)
	for i, n := range l.NodeNames() {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if errs[i] = l.waitNode(ctx, n); errs[i] == nil {
				st, err := l.Status(ctx, n)
				if errs[i] = err; err == nil {
					l.out("%-12s %s, Pod CIDR %s, MTU %d", n, text.Join(l.Spec.underlayAddrs(n), " "), text.Join(st.PodCIDRs, " "), st.MTU)
				}
			}
		}()
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (l *Lab) waitNode(ctx context.Context, node string) error {
	var last error
	for {
		if last = l.call(ctx, node, api.ReadyPath, nil); last == nil {
			return nil
		}
		if l.Pid(node, "agent") == 0 {
			raw, _ := os.ReadFile(filepath.Join(l.machineDir(node), "agent.log"))
			return fmt.Errorf("the agent of %s ended:\n%s", node, tail(string(raw), 20))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("node %s is not ready: %w", node, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Status queries a node's agent.
func (l *Lab) Status(ctx context.Context, node string) (api.Status, error) {
	var st api.Status
	return st, l.call(ctx, node, api.StatusPath, &st)
}

// Pods queries a node's agent for its Pods.
func (l *Lab) Pods(ctx context.Context, node string) ([]api.Pod, error) {
	var p []api.Pod
	return p, l.call(ctx, node, api.PodsPath, &p)
}

// call makes a GET on a node's agent and decodes the answer into out, unless that is nil.
func (l *Lab) call(ctx context.Context, node, path string, out any) error {
	if err := l.checkNode(node); err != nil {
		return err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn,
		error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", l.Socket(node))
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("agent of %s: %w", node, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e api.Error
		_ = json.NewDecoder(resp.Body).Decode(&e)
		return fmt.Errorf("agent of %s: %s", node, e.Message)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// Down ends every process of the lab and removes its directory. It works after a crash and after a partial removal.
func (l *Lab) Down() error {
	var errs []error
	for len(l.processes()) > 0 && len(errs) == 0 {
		for _, pid := range l.processes() {
			if err := l.kill(pid, syscall.SIGKILL); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := os.RemoveAll(l.Dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	_ = os.Remove(filepath.Dir(l.Dir)) // the root, when this was its last lab
	return errors.Join(errs...)
}

// Remove takes down the lab of that name, whatever is left of it.
func Remove(o Options) error {
	l, err := prepare(o)
	if err != nil {
		return err
	}
	return l.Down()
}
