package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// attachRequest is what `warren lab attach` reads on stdin, on the node.
type attachRequest struct {
	Netns       string            `json:"netns"`
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	ContainerID string            `json:"containerID,omitempty"` // del only
	Labels      map[string]string `json:"labels,omitempty"`
	IPs         []netip.Addr      `json:"ips,omitempty"`
	MAC         string            `json:"mac,omitempty"`
	Ports       []PortMapping     `json:"ports,omitempty"`
}

// PortMapping is a host port: a port of the node and the port of the Pod that it forwards to.
type PortMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// attachReply is what `warren lab attach add` prints.
type attachReply struct {
	ContainerID string       `json:"containerID"`
	Addresses   []netip.Addr `json:"addresses"`
}

// Attach does what a container runtime does on a node: it makes a network namespace, and libcni calls the plugin with the
// node's own conflist. It runs in the namespaces of the node.
func Attach(ctx context.Context, verb string, in io.Reader, out io.Writer) error {
	var r attachRequest
	if err := json.NewDecoder(in).Decode(&r); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cni := libcni.NewCNIConfigWithCacheDir([]string{filepath.Dir(exe)}, "/var/lib/cni", nil)
	list, err := firstConflist("/etc/cni/net.d")
	if err != nil {
		return err
	}
	if verb == "del" {
		return errors.Join(cni.DelNetworkList(ctx, list, r.runtimeConf(r.ContainerID)), removeNetns(r.Netns))
	}
	id := randomID()
	if err := makeNetns(r.Netns); err != nil {
		return err
	}
	if list, err = withLabels(list, r.Labels); err != nil {
		return errors.Join(err, removeNetns(r.Netns))
	}
	res, err := cni.AddNetworkList(ctx, list, r.runtimeConf(id))
	if err != nil {
		return errors.Join(err, cni.DelNetworkList(ctx, list, r.runtimeConf(id)), removeNetns(r.Netns))
	}
	addrs, err := addressesOf(res)
	if err == nil {
		err = writeResolvConf(r.Netns, res)
	}
	if err != nil {
		return errors.Join(err, cni.DelNetworkList(ctx, list, r.runtimeConf(id)), removeNetns(r.Netns))
	}
	return json.NewEncoder(out).Encode(attachReply{ContainerID: id, Addresses: addrs})
}

func firstConflist(dir string) (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(dir, []string{".conflist"})
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no conflist in %s: the agent writes one when it is ready", dir)
	}
	return libcni.ConfListFromFile(files[0])
}

// withLabels passes labels according to the CNI conventions: args.cni.labels of each plugin's configuration.
func withLabels(list *libcni.NetworkConfigList, labels map[string]string) (*libcni.NetworkConfigList, error) {
	if len(labels) == 0 {
		return list, nil
	}
	type kv struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	var kvs []kv
	for k, v := range labels {
		kvs = append(kvs, kv{k, v})
	}
	for i, p := range list.Plugins {
		injected, err := libcni.InjectConf(p, map[string]any{"args": map[string]any{"cni": map[string]any{"labels": kvs}}})
		if err != nil {
			return nil, err
		}
		list.Plugins[i] = injected
	}
	return list, nil
}

func (r attachRequest) runtimeConf(id string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{ContainerID: id, NetNS: r.Netns, IfName: "eth0", CapabilityArgs: map[string]any{},
		Args: [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", r.Namespace}, {"K8S_POD_NAME", r.Name}, {"K8S_POD_UID", id}}}
	if len(r.IPs) > 0 {
		var ips []string
		for _, a := range r.IPs {
			ips = append(ips, a.String())
		}
		rt.CapabilityArgs["ips"] = ips
	}
	if len(r.Ports) > 0 {
		rt.CapabilityArgs["portMappings"] = r.Ports
	}
	if r.MAC != "" {
		rt.CapabilityArgs["mac"] = r.MAC
	}
	return rt
}

func addressesOf(res types.Result) (out []netip.Addr, err error) {
	r, err := types100.NewResultFromResult(res)
	if err != nil {
		return nil, err
	}
	for _, ip := range r.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		out = append(out, a.Unmap())
	}
	return out, nil
}

// writeResolvConf writes the plugin's dns result to the file that `ip netns exec` mounts as /etc/resolv.conf of the Pod's
// processes.
func writeResolvConf(netns string, res types.Result) error {
	r, err := types100.NewResultFromResult(res)
	if err != nil || len(r.DNS.Nameservers) == 0 {
		return err
	}
	var b strings.Builder
	for _, n := range r.DNS.Nameservers {
		fmt.Fprintln(&b, "nameserver", n)
	}
	if len(r.DNS.Search) > 0 {
		fmt.Fprintln(&b, "search", strings.Join(r.DNS.Search, " "))
	}
	if len(r.DNS.Options) > 0 {
		fmt.Fprintln(&b, "options", strings.Join(r.DNS.Options, " "))
	}
	dir := resolvDir(netns)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte(b.String()), 0o644)
}

func resolvDir(netns string) string { return filepath.Join("/etc/netns", filepath.Base(netns)) }

// makeNetns makes a network namespace with lo up, kept by a bind mount, as `ip netns add` does.
func makeNetns(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	f.Close()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime ends the thread with this goroutine
		done <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			if err := netlink.LinkSetUp(lo); err != nil {
				return err
			}
			return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}()
	}()
	if err := <-done; err != nil {
		return errors.Join(fmt.Errorf("make network namespace %s: %w", path, err), os.Remove(path))
	}
	return nil
}

func removeNetns(path string) error {
	if err := os.RemoveAll(resolvDir(path)); err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func randomID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}
