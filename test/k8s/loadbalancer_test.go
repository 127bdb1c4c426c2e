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

// Services of type LoadBalancer get addresses once there is a pool, one node announces each, another one takes over,
// and what others wrote stays.
func TestLoadBalancer_Pools_AddressesAssignedAndAnnounced(t *testing.T) {
	ns := namespace(t)
	web := onEachNode(t, ns, "web")
	apply(t, balancerOf(ns, "web", "web", "")+balancerOf(ns, "patched", "web", "")+
		balancerOf(ns, "otherclass", "web", ", loadBalancerClass: example.com/lb"))
	kubectl(t, "-n", ns, "patch", "service", "patched", "--subresource=status", "--type=merge", "-p",
		`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.7"}]}}}`)
	time.Sleep(2 * time.Second)
	if a, err := lbAddress(ns, "web"); err != nil || a != "" {
		t.Fatalf("without a pool it has %q, %v", a, err)
	}

	start := time.Now()
	apply(t, fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: lan}\nspec: {addresses: [%s.240/29]}\n",
		subnet))
	t.Cleanup(func() { _, _ = tryKubectl("delete", "addresspool", "lan") })
	addr := untilLBAddress(t, ns, "web")
	t.Logf("an address %.1f s after the pool", time.Since(start).Seconds())
	get := func(path string) (string, error) {
		return try("ext", "curl", "-fsS", "-m", "1", "http://"+addr+path)
	}
	testutil.EventuallyWithin(t, 20*time.Second, "an answer at "+addr, func() error { _, err := get("/hostname"); return err })
	t.Logf("an answer %.1f s after the pool", time.Since(start).Seconds())
	if out := kubectl(t, "-n", ns, "get", "service", "web"); !strings.Contains(out, addr) {
		t.Errorf("kubectl get service: %s", out)
	}
	var owner string
	testutil.EventuallyWithin(t, 10*time.Second, "one owner", func() (err error) { owner, err = announcer(addr); return err })

	t.Run("takeover", func(t *testing.T) {
		killed := time.Now()
		killAgent(t, owner)
		var took time.Duration
		moved := ""
		for end := killed.Add(20 * time.Second); time.Now().Before(end) && moved == ""; {
			_, err := try("ext", "curl", "-fsS", "-m", "0.2", "-o", "/dev/null", "http://"+addr+"/hostname")
			if took = time.Since(killed); err == nil {
				moved, _ = announcer(addr, owner) // an error: not settled yet
			}
		}
		if moved == "" {
			t.Fatal("no node took over")
		}
		t.Logf("%s died, %s answers after %d ms", owner, moved, took.Milliseconds())
		if took > 3*time.Second { // under a second on a machine with nothing else to do
			t.Errorf("the address was unreachable for %s", took)
		}
		agentsReady(t)
		testutil.EventuallyWithin(t, 30*time.Second, "one owner again", func() (err error) { owner, err = announcer(addr); return err })
	})

	t.Run("policy Local follows its endpoint", func(t *testing.T) {
		only := func(node string) {
			t.Helper()
			for _, n := range nodes {
				label := "app=web"
				if n != node {
					label = "app=aside"
				}
				kubectl(t, "-n", ns, "label", "pod", web[n].Name, label, "--overwrite")
			}
			testutil.EventuallyWithin(t, 30*time.Second, addr+" on "+node+" with its Pod, seeing the client", func() error {
				if out, err := get("/hostname"); err != nil || want(out, web[node].Name) != nil {
					return fmt.Errorf("%q %w", out, err)
				}
				if out, err := get("/clientip"); err != nil || !strings.HasPrefix(out, outside+":") {
					return fmt.Errorf("client %q %w", out, err)
				}
				at, err := announcer(addr)
				if err != nil {
					return err
				}
				return want(at, node)
			})
		}
		// The DaemonSet must not make new Pods for those that lose its label.
		kubectl(t, "-n", ns, "delete", "daemonset", "web", "--cascade=orphan")
		kubectl(t, "-n", ns, "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Local"}}`)
		only("n3")
		only("n2")
		for _, n := range nodes {
			kubectl(t, "-n", ns, "label", "pod", web[n].Name, "app=web", "--overwrite")
		}
		kubectl(t, "-n", ns, "patch", "service", "web", "-p", `{"spec":{"externalTrafficPolicy":"Cluster"}}`)
	})

	t.Run("a request waits", func(t *testing.T) {
		apply(t, balancerOf(ns, "second", "web", ", loadBalancerIP: "+addr)+
			balancerOf(ns, "outside", "web", ", loadBalancerIP: 203.0.113.9"))
		for name, why := range map[string]string{"second": addr + " is held by service " + ns + "/web",
			"outside": "203.0.113.9 lies in no pool"} {
			testutil.EventuallyWithin(t, 10*time.Second, "an Event of "+name, func() error {
				out, err := tryKubectl("-n", ns, "get", "events", "--field-selector", "reason=NoAddress,involvedObject.name="+name, "-o",
					"jsonpath={.items[*].message}")
				if err != nil {
					return err
				}
				return want(out, why)
			})
			v, err := lbOf("n2")
			i := slices.IndexFunc(v.Services, func(s lbService) bool { return s.Service == ns+"/"+name })
			if err != nil || i < 0 || !slices.Equal(v.Services[i].Pending, []string{why}) {
				t.Errorf("warren lb: %+v, %v", v, err)
			}
		}
		kubectl(t, "-n", ns, "delete", "service", "web")
		testutil.EventuallyWithin(t, 10*time.Second, "the address", func() error {
			a, err := lbAddress(ns, "second")
			if err != nil {
				return err
			}
			return want(a, addr)
		})
		testutil.EventuallyWithin(t, 10*time.Second, "an answer", func() error { _, err := get("/hostname"); return err })
	})

	t.Run("freed", func(t *testing.T) {
		kubectl(t, "-n", ns, "patch", "service", "second", "--type=json", "-p",
			`[{"op":"replace","path":"/spec/type","value":"ClusterIP"},{"op":"remove","path":"/spec/loadBalancerIP"}]`)
		testutil.EventuallyWithin(t, 10*time.Second, "all addresses free", func() error {
			out, err := tryKubectl("get", "addresspool", "lan", "-o", "jsonpath={.status.used} {.status.free}")
			if err != nil {
				return err
			}
			return want(out, "0 8")
		})
		testutil.EventuallyWithin(t, 10*time.Second, "silence", func() error {
			_, _ = try("ext", "ip", "neigh", "flush", "all")
			if out, err := get("/hostname"); err == nil {
				return fmt.Errorf("%q still answers", out)
			}
			return nil
		})
	})

	for name, kept := range map[string]string{"patched": "203.0.113.7", "otherclass": ""} {
		if a, err := lbAddress(ns, name); err != nil || a != kept {
			t.Errorf("%s has %q, %v; expected %q", name, a, err, kept)
		}
	}
	if out := kubectl(t, "-n", ns, "get", "events", "--field-selector", "involvedObject.name=otherclass"); strings.Contains(out,
		"Address") {
		t.Errorf("otherclass: %s", out)
	}
	if why := addressPoolsRefused(); why != nil {
		t.Error(why)
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
