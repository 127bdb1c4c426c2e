//go:build k8s

package k8s

import (
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// httpAt is the URL of a path at an address of either family.
func httpAt(addr string, port int, path string) string {
	return "http://" + netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(port)).String() + path
}

// seenAs is the address that an agnhost at url takes its client for.
func seenAs(out string) string {
	a, err := netip.ParseAddrPort(strings.TrimSpace(out))
	if err != nil {
		return out
	}
	return a.Addr().Unmap().String()
}

// canonical compares addresses that may have different spellings.
func canonical(addrs string) (out []string) {
	for _, f := range strings.Fields(addrs) {
		if a, err := netip.ParseAddr(f); err == nil {
			f = a.String()
		}
		out = append(out, f)
	}
	return out
}

func canonicalSet(addrs string) []string {
	out := canonical(addrs)
	slices.Sort(out)
	return out
}

// Pods have an address of each family in the cluster's order, out of their node's blocks, and reach each other, the
// nodes and the outside by IPv6 as by IPv4.
func TestDualStack_Pods_ReachEachOther(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	for _, n := range nodes {
		p := web[n]
		cidrs := strings.Fields(kubectl(t, "get", "node", n, "-o", "jsonpath={.spec.podCIDRs[*]}"))
		for i, ip := range []string{p.IP, p.IP6} {
			if a, err := netip.ParseAddr(ip); err != nil || len(cidrs) != 2 || !netip.MustParsePrefix(cidrs[i]).Contains(a) {
				t.Fatalf("Pod on %s has %q and %q; expected one of each of its node's %v", n, p.IP, p.IP6, cidrs)
			}
		}
		hosts := kubectl(t, "-n", ns, "get", "pod", p.Name, "-o", "jsonpath={.status.hostIPs[*].ip}")
		if want := []string{nodeIP(n), nodeIP6(n)}; !slices.Equal(canonical(hosts), want) {
			t.Errorf("hostIPs of the Pod on %s: %s, expected %v", n, hosts, want)
		}
		if own := canonical(kubectl(t, "-n", ns, "exec", p.Name, "--", "hostname", "-i")); len(own) == 0 || own[0] != p.IP {
			t.Errorf("the Pod on %s takes itself for %v, expected %s first", n, own, p.IP)
		}
	}
	ok := func(what string, f func() error) {
		t.Helper()
		testutil.EventuallyWithin(t, 15*time.Second, what, f)
	}
	clientFrom := func(expected string, f func() (string, error)) func() error {
		return func() error {
			out, err := f()
			if err != nil {
				return err
			}
			return want(seenAs(out), expected)
		}
	}
	stop := listenOutside(t)
	defer stop()
	for _, a := range nodes {
		for _, b := range nodes {
			ok("Pod "+a+" to Pod "+b, clientFrom(web[a].IP6, func() (string, error) {
				return fromPod(ns, web[a].Name, curlArgs(httpAt(web[b].IP6, 8080, "/clientip"))...)
			}))
			ok("node "+a+" to Pod "+b, func() error {
				out, err := hostname(a, httpAt(web[b].IP6, 8080, "/hostname"))
				if err != nil {
					return err
				}
				return want(out, web[b].Name)
			})
			ok("Pod "+a+" to the kubelet of "+b, func() error {
				_, err := fromPod(ns, web[a].Name, "curl", "-sk", "-m", "5", "-o", "/dev/null", "https://["+nodeIP6(b)+"]:10250/healthz")
				return err
			})
		}
		for family, c := range map[string][2]string{"IPv4": {outside, nodeIP(a)}, "IPv6": {outside6, nodeIP6(a)}} {
			ok(family+" from the Pod on "+a+" to the outside, with its node's address", clientFrom(c[1], func() (string, error) {
				return fromPod(ns, web[a].Name, curlArgs(httpAt(c[0], outsidePort, "/clientip"))...)
			}))
		}
		ok("IPv6 from "+a+" to the outside by UDP", func() error {
			out, err := fromPod(ns, web[a].Name, "dig", "+short", "@"+outside6, "upstream.rig.test")
			if err != nil {
				return err
			}
			return want(out, outside)
		})
		ok("ping6 from the Pod on "+a+" to the outside", func() error {
			_, err := fromPod(ns, web[a].Name, "ping", "-6", "-c", "1", "-W", "3", outside6)
			return err
		})
	}
}

const outsidePort = 8099

// listenOutside runs agnhost on the outside host until stop.
func listenOutside(t *testing.T) (stop func()) {
	t.Helper()
	cmd := exec.Command("rig/in.sh", "ext", "agnhost", "netexec", fmt.Sprint("--http-port=", outsidePort), "--udp-port=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testutil.EventuallyWithin(t, 10*time.Second, "the server outside", func() error {
		_, err := hostname("ext", httpAt(outside6, outsidePort, "/hostname"))
		return err
	})
	return func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}
}

// Services of every family policy: by their addresses and names, through node ports and load balancer addresses.
func TestDualStack_Services_ServeBothFamilies(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	apply(t, fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: both}\nspec: {addresses: [%s.248/30, "+
		"\"%s:f0/124\"]}\n", subnet, subnet6))
	t.Cleanup(func() { _, _ = tryKubectl("delete", "addresspool", "both") })
	for name, spec := range map[string]string{
		"prefer":   "{ipFamilyPolicy: PreferDualStack",
		"require":  "{ipFamilyPolicy: RequireDualStack, ipFamilies: [IPv6, IPv4]",
		"six":      "{ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]",
		"port":     "{type: NodePort, ipFamilyPolicy: RequireDualStack",
		"local":    "{type: NodePort, externalTrafficPolicy: Local, ipFamilyPolicy: SingleStack, ipFamilies: [IPv6]",
		"lb":       "{type: LoadBalancer, ipFamilyPolicy: RequireDualStack",
		"headless": "{clusterIP: None, ipFamilyPolicy: RequireDualStack",
	} {
		apply(t, fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: %s, selector: {app: web}, ports: "+
			"[{name: http, port: 80, targetPort: 8080}]}\n", name, ns, spec))
	}
	field := func(service, path string) string {
		t.Helper()
		return kubectl(t, "-n", ns, "get", "service", service, "-o", "jsonpath={"+path+"}")
	}
	ok := func(what string, f func() error) {
		t.Helper()
		testutil.EventuallyWithin(t, 20*time.Second, what, f)
	}
	for service, families := range map[string]string{"prefer": "46", "require": "64", "six": "6", "port": "46", "lb": "46"} {
		ips := canonical(field(service, ".spec.clusterIPs[*]"))
		have := ""
		for _, ip := range ips {
			have += map[bool]string{true: "4", false: "6"}[netip.MustParseAddr(ip).Is4()]
		}
		if have != families {
			t.Fatalf("%s has %v, expected families %s", service, ips, families)
		}
		for _, n := range nodes {
			for _, ip := range ips {
				ok(service+" at "+ip+" from the Pod on "+n, func() error {
					_, err := fromPod(ns, web[n].Name, curlArgs(httpAt(ip, 80, "/hostname"))...)
					return err
				})
				ok(service+" at "+ip+" from "+n, func() error {
					_, err := hostname(n, httpAt(ip, 80, "/hostname"))
					return err
				})
			}
		}
		ok("names of "+service, func() error { return resolves(ns, web["n2"].Name, service, ips...) })
		for _, ip := range ips {
			flag := map[bool]string{true: "-4", false: "-6"}[netip.MustParseAddr(ip).Is4()]
			ok(service+" by name, curl "+flag, func() error {
				_, err := fromPod(ns, web["n3"].Name, curlArgs("http://"+service+"/hostname", flag)...)
				return err
			})
		}
	}
	var all []string
	for _, n := range nodes {
		all = append(all, web[n].IP, web[n].IP6)
	}
	ok("names of headless", func() error { return resolves(ns, web["n1"].Name, "headless", all...) })
	ok("kubernetes.default", func() error {
		return resolves(ns, web["n1"].Name, "kubernetes.default", canonical(kubectl(t, "get", "service", "kubernetes", "-o",
			"jsonpath={.spec.clusterIPs[*]}"))...)
	})
	for _, server := range []string{"10.43.0.10", "fd43::a"} {
		for _, n := range nodes {
			ok("cluster DNS at "+server+" from the Pod on "+n, func() error {
				out, err := fromPod(ns, web[n].Name, "dig", "+short", "+tries=1", "+timeout=2", "@"+server, "AAAA", "six."+ns+
					".svc.cluster.local")
				if err != nil {
					return err
				}
				return want(strings.Join(canonical(out), " "), canonical(field("six", ".spec.clusterIP"))[0])
			})
		}
	}
	if out := kubectl(t, "-n", ns, "exec", web["n1"].Name, "--", "grep", "nameserver", "/etc/resolv.conf"); !strings.Contains(out,
		"10.43.0.10") || !strings.Contains(out, "fd43::a") {
		t.Errorf("resolv.conf of a Pod: %s", out)
	}
	port := 0
	fmt.Sscan(field("port", ".spec.ports[0].nodePort"), &port)
	local := 0
	fmt.Sscan(field("local", ".spec.ports[0].nodePort"), &local)
	for _, n := range nodes {
		for _, ip := range []string{nodeIP(n), nodeIP6(n)} {
			for _, from := range append([]string{"ext"}, nodes...) {
				ok("node port at "+ip+" from "+from, func() error { _, err := hostname(from, httpAt(ip, port, "/hostname")); return err })
			}
			ok("node port at "+ip+" from a Pod", func() error {
				_, err := fromPod(ns, web["n1"].Name, curlArgs(httpAt(ip, port, "/hostname"))...)
				return err
			})
		}
		ok("the client's own address and the node's own Pod, with policy Local", func() error {
			out, err := hostname("ext", httpAt(nodeIP6(n), local, "/clientip"))
			if err != nil {
				return err
			}
			if err := want(seenAs(out), outside6); err != nil {
				return err
			}
			if out, err = hostname("ext", httpAt(nodeIP6(n), local, "/hostname")); err != nil {
				return err
			}
			return want(out, web[n].Name)
		})
		ok("node port at ::1 of "+n, func() error { _, err := hostname(n, httpAt("::1", port, "/hostname")); return err })
	}
	var given []string
	ok("a load balancer address of each family", func() error {
		out, err := lbAddress(ns, "lb")
		if given = canonicalSet(out); err == nil && len(given) != 2 {
			err = fmt.Errorf("%q", out)
		}
		return err
	})
	for _, ip := range given {
		ok("load balancer address "+ip, func() error { _, err := hostname("ext", httpAt(ip, 80, "/hostname")); return err })
	}
}

// resolves queries A and AAAA records of a name from a Pod, by its search list.
func resolves(ns, pod, name string, expected ...string) error {
	out, err := fromPod(ns, pod, "sh", "-c", "dig +short +search "+name+" A; dig +short +search "+name+" AAAA")
	if err != nil {
		return err
	}
	slices.Sort(expected)
	if have := canonicalSet(out); !slices.Equal(have, expected) {
		return fmt.Errorf("%w: %s is %v, expected %v", errWrong, name, have, expected)
	}
	return nil
}

// hostPort and hostNetwork know both families, too, and a server that listens on IPv6 alone is probed and served.
func TestDualStack_HostClients_ReachServices(t *testing.T) {
	ns := namespace(t)
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: port, namespace: %[1]s, labels: {app: port}}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %[2]s, args: [netexec], ports: [{containerPort: 8080, hostPort: 28082}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: host, namespace: %[1]s, labels: {app: host}}
spec:
  nodeName: n3
  hostNetwork: true
  terminationGracePeriodSeconds: 0
  containers: [{name: c, image: %[2]s, args: [netexec, --http-port=9083, --udp-port=-1], readinessProbe: {httpGet: {path: /hostname, port: 9083, host: "%[3]s"}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: host, namespace: %[1]s}
spec: {ipFamilyPolicy: RequireDualStack, selector: {app: host}, ports: [{port: 80, targetPort: 9083}]}
`, ns, agnhost, nodeIP6("n3")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod", "--all", "--timeout=90s")
	if ips := canonical(kubectl(t, "-n", ns, "get", "pod", "host", "-o", "jsonpath={.status.podIPs[*].ip}")); !slices.Equal(ips,
		[]string{nodeIP("n3"), nodeIP6("n3")}) {
		t.Errorf("hostNetwork Pod has %v", ips)
	}
	for _, ip := range []string{nodeIP("n2"), nodeIP6("n2")} {
		for _, from := range []string{"ext", "n1", "n2"} {
			testutil.EventuallyWithin(t, 15*time.Second, "hostPort at "+ip+" from "+from, func() error {
				out, err := hostname(from, httpAt(ip, 28082, "/hostname"))
				if err != nil {
					return err
				}
				return want(out, "port")
			})
		}
	}
	for _, ip := range canonical(kubectl(t, "-n", ns, "get", "service", "host", "-o", "jsonpath={.spec.clusterIPs[*]}")) {
		for _, n := range nodes {
			testutil.EventuallyWithin(t, 15*time.Second, "hostNetwork backend at "+ip+" from "+n, func() error {
				out, err := hostname(n, httpAt(ip, 80, "/hostname"))
				if err != nil {
					return err
				}
				return want(out, "n3")
			})
		}
		testutil.EventuallyWithin(t, 15*time.Second, "hostNetwork backend at "+ip+" from a Pod", func() error {
			_, err := fromPod(ns, "port", curlArgs(httpAt(ip, 80, "/hostname"))...)
			return err
		})
	}
}
