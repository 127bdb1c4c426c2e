//go:build k8s

package k8s

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/testutil"
)

// lbView is what `warren lb` of a node shows.
type lbView struct{ Services []lbService }

type lbService struct {
	Service   string
	Addresses []struct {
		Address   netip.Addr
		Announcer string
	}
	Pending []string
}

func lbOf(node string) (v lbView, err error) {
	out, err := try(node, "curl", "-fsS", "-m", "2", "--unix-socket", "/run/warren/agent.sock", "http://warren/v1/lb")
	if err != nil {
		return v, err
	}
	return v, json.Unmarshal([]byte(out), &v)
}

// announcer is the node that announces an address, on which all nodes but those left out must agree, and whose link
// address the outside host knows the address by.
func announcer(addr string, without ...string) (owner string, err error) {
	for _, n := range nodes {
		if slices.Contains(without, n) {
			continue
		}
		v, err := lbOf(n)
		if err != nil {
			return "", err
		}
		seen := ""
		for _, s := range v.Services {
			for _, a := range s.Addresses {
				if a.Address.String() == addr {
					seen = a.Announcer
				}
			}
		}
		if seen == "" || owner != "" && seen != owner {
			return "", fmt.Errorf("%s reports that %q announces %s, other nodes report %q", n, seen, addr, owner)
		}
		owner = seen
	}
	neigh, err := try("ext", "ip", "neigh", "show", addr)
	if err != nil {
		return "", err
	}
	mac, err := try(owner, "cat", "/sys/class/net/eth0/address")
	if err == nil && (strings.Count(neigh, "lladdr") != 1 || !strings.Contains(neigh, strings.TrimSpace(mac))) {
		err = fmt.Errorf("%s announces, but the outside host knows %q", owner, strings.TrimSpace(neigh))
	}
	return owner, err
}

func lbAddress(ns, name string) (string, error) {
	return tryKubectl("-n", ns, "get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[*].ip}")
}

func untilLBAddress(t *testing.T, ns, name string) (addr string) {
	t.Helper()
	testutil.EventuallyWithin(t, 15*time.Second, "an address of "+name, func() (err error) {
		if addr, err = lbAddress(ns, name); err == nil && addr == "" {
			err = errWrong
		}
		return err
	})
	return addr
}

func balancerOf(ns, name, app string, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {type: LoadBalancer, selector: {app: "+
		"%s}, ports: [{port: 80, targetPort: 8080}]%s}\n---\n",
		name, ns, app, more)
}

// balanced is a Service of type LoadBalancer with a Pod on each node, and the address that it has.
type balanced struct {
	ns    string
	web   map[string]podInfo
	addr  string
	owner string // the node that announces the address
}

// get requests a path at the address from outside of the cluster.
func (b *balanced) get(path string) (string, error) {
	return try("ext", "curl", "-fsS", "-m", "1", "http://"+b.addr+path)
}

func (b *balanced) untilAnswer(t *testing.T, limit time.Duration) {
	t.Helper()
	testutil.EventuallyWithin(t, limit, "an answer at "+b.addr, func() error { _, err := b.get("/hostname"); return err })
}

func (b *balanced) untilOneOwner(t *testing.T, limit time.Duration) {
	t.Helper()
	testutil.EventuallyWithin(t, limit, "one owner", func() (err error) { b.owner, err = announcer(b.addr); return err })
}

// Services of type LoadBalancer get addresses once there is a pool, one node announces each, another one takes over,
// and what others wrote stays.
func TestLoadBalancer_Pools_AddressesAssignedAndAnnounced(t *testing.T) {
	ns := namespace(t)
	b := &balanced{ns: ns, web: onEachNode(t, ns, "web")}
	apply(t, balancerOf(ns, "web", "web", "")+balancerOf(ns, "patched", "web", "")+
		balancerOf(ns, "otherclass", "web", ", loadBalancerClass: example.com/lb"))
	kubectl(t, "-n", ns, "patch", "service", "patched", "--subresource=status", "--type=merge", "-p",
		`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}`)
	testutil.EventuallyWithin(t, 15*time.Second, "warren lb lists the Service", func() error {
		v, err := lbOf("n1")
		if err == nil && !slices.ContainsFunc(v.Services, func(s lbService) bool { return s.Service == ns+"/web" }) {
			err = fmt.Errorf("it lists %+v", v)
		}
		return err
	})
	if a, err := lbAddress(ns, "web"); err != nil || a != "" {
		t.Fatalf("without a pool it has %q, %v", a, err)
	}
	b.assign(t)
	t.Run("takeover", b.takeover)
	t.Run("policy Local follows its endpoint", b.policyLocal)
	t.Run("a request waits", b.requestWaits)
	t.Run("freed", b.freed)
	t.Run("Services of others stay", b.othersStay)
	t.Run("pools without an address are refused", func(t *testing.T) {
		if why := addressPoolsRefused(); why != nil {
			t.Error(why)
		}
	})
}

// assign creates a pool and waits until the Service answers at an address of it.
func (b *balanced) assign(t *testing.T) {
	t.Helper()
	start := time.Now()
	apply(t, fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: lan}\nspec: {addresses: [%s.240/29]}\n",
		subnet))
	t.Cleanup(func() { _, _ = tryKubectl("delete", "addresspool", "lan") })
	b.addr = untilLBAddress(t, b.ns, "web")
	t.Logf("an address %.1f s after the pool", time.Since(start).Seconds())
	b.untilAnswer(t, 20*time.Second)
	t.Logf("an answer %.1f s after the pool", time.Since(start).Seconds())
	if out := kubectl(t, "-n", b.ns, "get", "service", "web"); !strings.Contains(out, b.addr) {
		t.Errorf("kubectl get service: %s", out)
	}
	b.untilOneOwner(t, 10*time.Second)
}

// takeover kills the agent that announces the address: another node announces it.
func (b *balanced) takeover(t *testing.T) {
	killed := time.Now()
	killAgent(t, b.owner)
	var took time.Duration
	moved := ""
	for end := killed.Add(20 * time.Second); time.Now().Before(end) && moved == ""; {
		_, err := try("ext", "curl", "-fsS", "-m", "0.2", "-o", "/dev/null", "http://"+b.addr+"/hostname")
		if took = time.Since(killed); err == nil {
			moved, _ = announcer(b.addr, b.owner) // an error: not settled yet
		}
	}
	if moved == "" {
		t.Fatal("no node took over")
	}
	t.Logf("%s died, %s answers after %d ms", b.owner, moved, took.Milliseconds())
	if took > 3*time.Second { // under a second on a machine with nothing else to do
		t.Errorf("the address was unreachable for %s", took)
	}
	agentsReady(t)
	b.untilOneOwner(t, 30*time.Second)
}

// policyLocal moves the only endpoint of the Service between nodes: the node with the endpoint announces the address, and the Pod
// sees the client's address.
func (b *balanced) policyLocal(t *testing.T) {
	// The DaemonSet must not make new Pods for those that lose its label.
	kubectl(t, "-n", b.ns, "delete", "daemonset", "web", "--cascade=orphan")
	kubectl(t, "-n", b.ns, "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
	for _, node := range []string{"n3", "n2"} {
		for _, n := range nodes {
			label := "app=web"
			if n != node {
				label = "app=aside"
			}
			kubectl(t, "-n", b.ns, "label", "pod", b.web[n].Name, label, "--overwrite")
		}
		testutil.EventuallyWithin(t, 30*time.Second, b.addr+" on "+node+" with its Pod, seeing the client",
			func() error { return b.onlyOn(node) })
	}
	for _, n := range nodes {
		kubectl(t, "-n", b.ns, "label", "pod", b.web[n].Name, "app=web", "--overwrite")
	}
	kubectl(t, "-n", b.ns, "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
}

// onlyOn reports whether the Pod of a node answers, with the client's own address, and the node announces the address.
func (b *balanced) onlyOn(node string) error {
	if out, err := b.get("/hostname"); err != nil || want(out, b.web[node].Name) != nil {
		return fmt.Errorf("%q %w", out, err)
	}
	if out, err := b.get("/clientip"); err != nil || !strings.HasPrefix(out, outside+":") {
		return fmt.Errorf("client %q %w", out, err)
	}
	at, err := announcer(b.addr)
	if err != nil {
		return err
	}
	return want(at, node)
}

// requestWaits creates Services that request an address which they cannot have. One of them gets it when it is released.
func (b *balanced) requestWaits(t *testing.T) {
	apply(t, balancerOf(b.ns, "second", "web", ", loadBalancerIP: "+b.addr)+
		balancerOf(b.ns, "outside", "web", ", loadBalancerIP: 203.0.113.9"))
	for name, why := range map[string]string{"second": b.addr + " is held by service " + b.ns + "/web",
		"outside": "203.0.113.9 lies in no pool"} {
		t.Run(name, func(t *testing.T) {
			testutil.EventuallyWithin(t, 10*time.Second, "an Event", func() error { return pendingEvent(b.ns, name, why) })
			v, err := lbOf("n2")
			i := slices.IndexFunc(v.Services, func(s lbService) bool { return s.Service == b.ns+"/"+name })
			if err != nil || i < 0 || !slices.Equal(v.Services[i].Pending, []string{why}) {
				t.Errorf("warren lb: %+v, %v", v, err)
			}
		})
	}
	kubectl(t, "-n", b.ns, "delete", "service", "web")
	testutil.EventuallyWithin(t, 10*time.Second, "the address", func() error {
		a, err := lbAddress(b.ns, "second")
		if err != nil {
			return err
		}
		return want(a, b.addr)
	})
	b.untilAnswer(t, 10*time.Second)
}

// pendingEvent reports whether a Service has the Event that states why it waits for an address.
func pendingEvent(ns, name, why string) error {
	out, err := tryKubectl("-n", ns, "get", "events", "--field-selector", "reason=NoAddress,involvedObject.name="+name, "-o",
		"jsonpath={.items[*].message}")
	if err != nil {
		return err
	}
	return want(out, why)
}

// freed changes the type of the last Service: its address is free and no node answers there.
func (b *balanced) freed(t *testing.T) {
	kubectl(t, "-n", b.ns, "patch", "service", "second", "--type=json", "-p",
		`[{"op":"replace","path":"/spec/type","value":"ClusterIP"},{"op":"remove","path":"/spec/loadBalancerIP"}]`)
	testutil.EventuallyWithin(t, 10*time.Second, "all addresses free", func() error {
		out, err := tryKubectl("get", "addresspool", "lan", "-o", "jsonpath={.status.used} {.status.free}")
		if err != nil {
			return err
		}
		return want(out, "0 8")
	})
	testutil.EventuallyWithin(t, 10*time.Second, "no answer", func() error {
		_, _ = try("ext", "ip", "neigh", "flush", "all")
		if out, err := b.get("/hostname"); err == nil {
			return fmt.Errorf("%q still answers", out)
		}
		return nil
	})
}

// othersStay compares the addresses of Services that another controller serves.
func (b *balanced) othersStay(t *testing.T) {
	for name, kept := range map[string]string{"patched": "203.0.113.7", "otherclass": ""} {
		if a, err := lbAddress(b.ns, name); err != nil || a != kept {
			t.Errorf("%s has %q, %v; expected %q", name, a, err, kept)
		}
	}
	events := kubectl(t, "-n", b.ns, "get", "events", "--field-selector", "involvedObject.name=otherclass")
	if strings.Contains(events, "Address") {
		t.Errorf("otherclass: %s", events)
	}
}

// addressPoolsRefused: the schema refuses what is no address at all.
func addressPoolsRefused() error {
	for _, bad := range []string{"[]", "[x]", "[192.0.2.1]"} {
		if err := applyText("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: bad}\nspec: {addresses: " + bad +
			"}\n"); err == nil {
			return fmt.Errorf("a pool of %s was taken", bad)
		}
	}
	return nil
}
