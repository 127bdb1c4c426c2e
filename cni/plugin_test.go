package cni

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/vishvananda/netlink"
	"github.com/warrennet/warren/cni/internal/sandbox"
	"github.com/warrennet/warren/internal/api"
	"go.uber.org/goleak"
)

const (
	seen4 = "addr 10.42.7.3/32 tentative false\nlink mtu 1420 up true\nneigh 169.254.1.1 permanent\nroute 0.0.0.0/0 via 169.254.1.1"
	seen6 = "addr fd42:0:0:7::3/128 tentative false\nlink mtu 1420 up true\nneigh fe80::1 permanent\nroute ::/0 via fe80::1"
	seen  = "addr 10.42.7.3/32 tentative false\naddr fd42:0:0:7::3/128 tentative false\nlink mtu 1420 up true\n" +
		"neigh 169.254.1.1 permanent\nneigh fe80::1 permanent\nroute 0.0.0.0/0 via 169.254.1.1\nroute ::/0 via fe80::1"
)

// Every command in every version, in all families.
func TestPlugin_EachVersionAndFamily_WholeLifeOfAPod(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	for _, fam := range []struct {
		name   string
		blocks []netip.Prefix
		want   string
	}{{"IPv4", both[:1], seen4}, {"IPv6", both[1:], seen6}, {"dual", both, seen}, {"dual IPv6 first", []netip.Prefix{both[1], both[0]},
		seen}} {
		for _, version := range Versions {
			t.Run(fam.name+" "+version, func(t *testing.T) {
				r := newRig(t, fam.blocks...)
				lifeOfAPod(t, r, version, fam.want)
			})
		}
	}
}

func lifeOfAPod(t *testing.T, r *rig, version, want string) {
	l, p := r.list(version), r.pod()
	res, err := r.add(l, p)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Interfaces) != 2 || res.Interfaces[0].Name != p.hostIf() || res.Interfaces[0].Sandbox != "" ||
		res.Interfaces[1].Name != "eth0" || res.Interfaces[1].Sandbox != p.rt.NetNS {
		t.Errorf("interfaces: %v %v", res.Interfaces[0], res.Interfaces[1])
	}
	if mtu := res.Interfaces[1].Mtu; (version == "1.1.0") != (mtu == sandbox.MTU) {
		t.Errorf("MTU %d in a result of version %s", mtu, version)
	}
	if len(res.IPs) != len(r.Blocks) || len(res.Routes) != len(r.Blocks) || res.DNS.Nameservers[0] != "10.43.0.10" {
		t.Errorf("result: %v", res)
	}
	for i, ip := range res.IPs {
		a, _ := netip.AddrFromSlice(ip.Address.IP)
		if *ip.Interface != 1 || !r.Blocks[i].Contains(a.Unmap()) {
			t.Errorf("address %d: %v, want one of %s", i, ip, r.Blocks[i])
		}
	}
	got, err := p.describe()
	if err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("in the Pod:\n%s\nwant:\n%s", got, want)
	}
	if rec, ok := r.Pool.Get(p.at()); !ok || !rec.Committed || rec.MAC != res.Interfaces[1].Mac || rec.Network != "podnet" ||
		rec.Netns != p.rt.NetNS {
		t.Errorf("record: %+v", rec)
	}

	if _, err := r.add(l, p); code(err) < 100 {
		t.Errorf("second ADD: %v", err)
	}
	if again, err := p.describe(); err != nil || again != got {
		t.Errorf("a second ADD changed the Pod: %v\n%s", err, again)
	}
	if err := r.checkPod(l, p); (err == nil) != (version != "0.3.1") {
		t.Errorf("CHECK: %v", err)
	}
	if err := r.Do(func() error { return r.cni.GetStatusNetworkList(context.Background(), l) }); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	for range 2 {
		if err := r.del(l, p); err != nil {
			t.Fatal(err)
		}
		if s := r.leftovers(); s != "" { // at once: DEL returns when all is gone
			t.Errorf("after DEL:\n%s", s)
		}
	}
}

func TestVersion_SupportedVersions_AreListed(t *testing.T) {
	r := newRig(t)
	err := r.Do(func() error {
		info, err := r.cni.GetVersionInfo(context.Background(), "warren-cni")
		if err == nil && !slices.Equal(info.SupportedVersions(), Versions) {
			t.Errorf("supported: %v", info.SupportedVersions())
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := r.add(r.list("0.2.0"), r.pod()); err == nil {
		t.Error("CNI 0.2.0 was served")
	}
}

func TestAdd_RequestedAddressesAndMAC_AreAssigned(t *testing.T) {
	r := newRig(t)
	l, p := r.list("1.1.0", `"args":{"cni":{"labels":[{"key":"app","value":"web"}]}}`), r.pod()
	p.rt.CapabilityArgs = map[string]any{"ips": []string{"fd42:0:0:7::77", "10.42.7.77/24"}, "mac": "02:AB:cd:00:00:01",
		"dns": map[string]any{"servers": []string{"9.9.9.9"}, "searches": []string{"x.example"}, "options": []string{"ndots:2"}}}
	p.rt.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web-0"}, {"K8S_POD_UID", "u-1"},
		{"K8S_POD_INFRA_CONTAINER_ID", "x"}, {"SOMETHING", "else"}}
	res, err := r.add(l, p)
	if err != nil {
		t.Fatal(err)
	}
	if res.IPs[0].Address.String() != "10.42.7.77/32" || res.IPs[1].Address.String() != "fd42:0:0:7::77/128" ||
		res.Interfaces[1].Mac != "02:ab:cd:00:00:01" {
		t.Errorf("result: %v %v", res.IPs, res.Interfaces[1])
	}
	rec, _ := r.Pool.Get(p.at())
	if rec.PodNamespace != "shop" || rec.PodName != "web-0" || rec.PodUID != "u-1" || rec.Labels["app"] != "web" ||
		rec.DNS.Servers[0] != "9.9.9.9" {
		t.Errorf("record: %+v", rec)
	}
	q := r.pod()
	q.rt.CapabilityArgs = map[string]any{"ips": []string{"10.42.7.77"}}
	if _, err := r.add(r.list("1.1.0"), q); code(err) != api.CodeHeld || !strings.Contains(err.Error(), p.rt.ContainerID) {
		t.Errorf("address of another Pod: %v", err)
	}
	for _, p := range []*testPod{p, q} {
		if err := r.del(l, p); err != nil {
			t.Error(err)
		}
	}
	r.nothingLeft()
}

// Some runtimes create namespaces with IPv6 disabled. ADD enables it for a Pod with an IPv6 address.
func TestAdd_NamespaceWithIPv6Disabled_EnablesIt(t *testing.T) {
	r := newRig(t)
	p := r.pod()
	for _, k := range []string{"all", "default"} {
		if err := p.Sysctl("ipv6/conf/"+k+"/disable_ipv6", "1"); err != nil {
			t.Fatal(err)
		}
	}
	r.mustAdd(p)
	if got, err := p.describe(); err != nil || got != seen {
		t.Errorf("in the Pod: %v\n%s", err, got)
	}
	if err := r.checkPod(r.list("1.1.0"), p); err != nil {
		t.Error(err)
	}
}

// After another plugin of a chain, the result contains that plugin's result.
func TestAdd_ChainedPlugin_PassesPrevResultThrough(t *testing.T) {
	r := newRig(t, both[0])
	p := r.pod()
	raw := fmt.Sprintf(`{"cniVersion":"1.0.0","name":"podnet","plugins":[{"type":"loopback"},{"type":"warren-cni","socket":%q}]}`, r.Socket)
	l, err := libcni.ConfListFromBytes([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.cni.Path = append(r.cni.Path, "/usr/lib/cni")
	res, err := r.add(l, p)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Interfaces) != 3 || res.Interfaces[0].Name != "lo" || res.Interfaces[2].Name != "eth0" ||
		*res.IPs[len(res.IPs)-1].Interface != 2 {
		t.Errorf("result: %v %v", res.Interfaces, res.IPs)
	}
	if err := r.del(l, p); err != nil {
		t.Error(err)
	}
}

// containerd writes the fields of runtimeConfig with capitals. encoding/json, which the reference plugins use, ignores case.
func TestAdd_RuntimeConfigInOtherCase_IsRead(t *testing.T) {
	r := newRig(t, both...)
	p := r.pod()
	p.rt.CapabilityArgs = map[string]any{
		"dns":          map[string]any{"Servers": []string{"10.43.0.10"}, "Searches": []string{"a.b"}, "Options": []string{"ndots:5"}},
		"portMappings": []any{map[string]any{"HostPort": 54323, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": "127.0.0.1"}},
	}
	r.mustAdd(p)
	rec, ok := r.Pool.Get(p.at())
	want := []api.PortMapping{{HostPort: 54323, ContainerPort: 8080, Protocol: "tcp", HostIP: netip.MustParseAddr("127.0.0.1")}}
	if !ok || !slices.Equal(rec.PortMappings, want) || len(rec.DNS.Servers) != 1 || len(rec.DNS.Searches) != 1 ||
		len(rec.DNS.Options) != 1 {
		t.Errorf("recorded %+v", rec)
	}
}

func TestCheck_EachDifference_IsReported(t *testing.T) {
	onHost := func(r *rig, p *testPod, f func(netlink.Link) error) error {
		return r.Do(func() error {
			l, err := netlink.LinkByName(p.hostIf())
			if err != nil {
				return err
			}
			return f(l)
		})
	}
	inPod := func(p *testPod, f func(netlink.Link) error) error {
		return p.Do(func() error {
			l, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return f(l)
		})
	}
	for _, c := range []struct {
		want   string
		change func(*rig, *testPod) error
	}{
		{"interface eth0 is down", func(_ *rig, p *testPod) error { return inPod(p, netlink.LinkSetDown) }},
		{"interface wrn", func(r *rig, p *testPod) error { return onHost(r, p, netlink.LinkSetDown) }},
		{"address 10.42.7.3 is missing", func(_ *rig, p *testPod) error {
			return inPod(p, func(l netlink.Link) error {
				a, _ := netlink.ParseAddr("10.42.7.3/32")
				return netlink.AddrDel(l, a)
			})
		}},
		{"address 169.254.1.1 is missing", func(r *rig, p *testPod) error {
			return onHost(r, p, func(l netlink.Link) error {
				a, _ := netlink.ParseAddr("169.254.1.1/32")
				return netlink.AddrDel(l, a)
			})
		}},
		{"default route via fe80::1 is missing", func(_ *rig, p *testPod) error {
			return inPod(p, func(l netlink.Link) error {
				routes, err := netlink.RouteList(l, netlink.FAMILY_V6)
				for _, rt := range routes {
					if rt.Gw != nil {
						err = netlink.RouteDel(&rt)
					}
				}
				return err
			})
		}},
		{"source filter", func(r *rig, p *testPod) error {
			return onHost(r, p, func(l netlink.Link) error {
				qs, err := netlink.QdiscList(l)
				for _, q := range qs {
					if q.Type() == "clsact" {
						err = netlink.QdiscDel(q)
					}
				}
				return err
			})
		}},
		{"no record of container", func(r *rig, p *testPod) error { _, _, err := r.Pool.Release(p.at()); return err }},
		{"does not exist", func(r *rig, p *testPod) error { return onHost(r, p, netlink.LinkDel) }},
	} {
		t.Run(c.want, func(t *testing.T) {
			r := newRig(t)
			p := r.pod()
			r.mustAdd(p)
			if err := r.checkPod(r.list("1.1.0"), p); err != nil {
				t.Fatal(err)
			}
			if err := c.change(r, p); err != nil {
				t.Fatal(err)
			}
			if err := r.checkPod(r.list("1.1.0"), p); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("CHECK: error %v, want %q", err, c.want)
			}
		})
	}
}

func TestGC_ValidAttachments_AreKept(t *testing.T) {
	r := newRig(t)
	l := r.list("1.1.0")
	var valid []types.GCAttachment
	for i := range 4 {
		p := r.pod()
		r.mustAdd(p)
		if i%2 == 0 {
			valid = append(valid, types.GCAttachment{ContainerID: p.rt.ContainerID, IfName: "eth0"})
		}
	}
	other, err := libcni.ConfListFromBytes(fmt.Appendf(nil,
		`{"cniVersion":"1.1.0","name":"othernet","plugins":[{"type":"warren-cni","socket":%q}]}`, r.Socket))
	if err != nil {
		t.Fatal(err)
	}
	p := r.pod()
	if _, err := r.add(other, p); err != nil {
		t.Fatal(err)
	}
	err = r.Do(func() error {
		return r.cni.GCNetworkList(context.Background(), l, &libcni.GCArgs{ValidAttachments: valid})
	})
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, rec := range r.Server.Pods() {
		have = append(have, rec.ContainerID)
	}
	want := []string{valid[0].ContainerID, valid[1].ContainerID, p.rt.ContainerID}
	slices.Sort(want)
	slices.Sort(have)
	if links, err := r.Kernel.List(); !slices.Equal(have, want) || len(links) != 3 || err != nil {
		t.Errorf("after GC: records %v, %d links, %v; want %v", have, len(links), err, want)
	}
}

func TestAdd_InvalidInput_HasCodeAndLeavesNothing(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name  string
		extra string
		pod   func(*testPod)
		code  int
		want  []string
	}{
		{"all problems of a configuration at once", `"mode":"fast","ipam":{"type":"host-local"},"socket":"agent.sock"`, nil,
			api.CodeUnsupported,
			[]string{`"mode" with value "fast"`, "warren assigns the addresses itself", "expected an absolute path"}},
		{"an unsupported capability", `"runtimeConfig":{"bandwidth":{"ingressRate":80}}`, nil, api.CodeUnsupported,
			[]string{"bandwidth", "80"}},
		{"wrong port mappings",
			`"runtimeConfig":{"portMappings":[{"hostPort":80},{"hostPort":70000,"containerPort":1},{"hostPort":1,"containerPort":1,"protocol":"icmp","hostIP":"x"}]}`, nil,
			api.CodeConfig, []string{"containerPort of host port 80 is missing", "70000", `protocol "icmp"`, `"x" is not an IP address`}},
		{"a wrong address", `"args":{"cni":{"ips":["10.42.7.300"]}}`, nil, api.CodeConfig, []string{`"10.42.7.300" is not an IP address`}},
		{"no such namespace", "", func(p *testPod) { p.rt.NetNS = "/run/netns/none" }, api.CodeUnknown, []string{"no network namespace"}},
		{"a file that is no namespace", "", func(p *testPod) { p.rt.NetNS = "/etc/passwd" }, api.CodeUnknown,
			[]string{"no network namespace"}},
		{"the node's own namespace", "", func(p *testPod) { p.rt.NetNS = r.Path() }, api.CodeEnvironment,
			[]string{"namespace of the node"}},
		{"unknown CNI_ARGS", "", func(p *testPod) { p.rt.Args = [][2]string{{"COLOUR", "red"}} }, api.CodeEnvironment, []string{"COLOUR"}},
		{"an address outside", "", func(p *testPod) { p.rt.CapabilityArgs = map[string]any{"ips": []string{"10.9.9.9"}} }, api.CodeHeld,
			[]string{"none of this node's blocks"}},
		{"an interface name that is taken", "", func(p *testPod) { p.rt.IfName = "lo" }, api.CodeAttached, []string{"lo in the Pod"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := r.pod()
			if c.pod != nil {
				c.pod(p)
			}
			var extra []string
			if c.extra != "" {
				extra = []string{c.extra}
			}
			_, err := r.add(r.list("1.1.0", extra...), p)
			if code(err) != c.code {
				t.Errorf("code %d, want %d: %v", code(err), c.code, err)
			}
			for _, w := range c.want {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("error %v lacks %q", err, w)
				}
			}
			if s := r.leftovers(); s != "" {
				t.Errorf("left behind: %s", s)
			}
		})
	}
}

func TestAdd_BlockFull_FailsButStatusSucceeds(t *testing.T) {
	r := newRig(t, netip.MustParsePrefix("10.42.7.0/29"))
	for range 4 {
		r.mustAdd(r.pod())
	}
	_, err := r.add(r.list("1.1.0"), r.pod())
	if code(err) != api.CodeFull || !strings.Contains(err.Error(), "10.42.7.0/29") || !strings.Contains(err.Error(), "4 Pods") {
		t.Errorf("full block: %v", err)
	}
	if err := r.Do(func() error { return r.cni.GetStatusNetworkList(context.Background(), r.list("1.1.0")) }); err != nil {
		t.Errorf("STATUS fails for a full block: %v", err)
	}
}
