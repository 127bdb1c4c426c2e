package objectstore_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/etcd"
	"github.com/warrennet/warren/internal/store/etcd/etcdtest"
	"github.com/warrennet/warren/internal/store/etcd/objectstore"
	"github.com/warrennet/warren/internal/store/objects"
)

func poolYAML(name, spec string) string {
	return fmt.Sprintf("apiVersion: warren.dev/v1alpha1\nkind: AddressPool\nmetadata: {name: %s}\nspec: {%s}\n", name, spec)
}

// lbYAML is a Service of type LoadBalancer; note is an annotation, more are fields of the spec.
func lbYAML(name, note, more string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, annotations: {%s}}\nspec: {type: LoadBalancer, ports: "+
		"[{port: 80}], %s}\n", name, note, more)
}

// ingress returns the addresses in a Service's status.
func ingress(t *testing.T, s *etcd.Store, name string) string {
	t.Helper()
	var out []string
	for _, in := range service(t, s, name).Status.LoadBalancer.Ingress {
		if in.IPMode == nil || *in.IPMode != "VIP" {
			t.Errorf("%s: ipMode of %s is %v", name, in.IP, in.IPMode)
		}
		out = append(out, in.IP)
	}
	return strings.Join(out, " ")
}

func remove(t *testing.T, s *etcd.Store, kind, name string) {
	t.Helper()
	k, err := objects.KindNamed(kind)
	if err == nil {
		err = s.Objects.Delete(context.Background(), k, "default", name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustApply(t *testing.T, s *etcd.Store, yamls ...string) {
	t.Helper()
	for _, y := range yamls {
		if _, err := apply(t, s, y); err != nil {
			t.Fatalf("%v\n%s", err, y)
		}
	}
}

// The life of load balancer addresses: given at once, waited for, moved, shared, freed; and never without a reason.
func TestApply_LoadBalancer_AssignsAndReleasesAddresses(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "lb")
	expect := func(name, want string) {
		t.Helper()
		if got := ingress(t, s, name); got != want {
			t.Errorf("%s has %q, expected %q", name, got, want)
		}
	}
	again := func(names ...string) {
		t.Helper()
		for _, n := range names {
			if err := s.Objects.Allocate(context.Background(), model.ObjectName{Namespace: "default", Name: n}); err != nil {
				t.Error(err)
			}
		}
	}
	mustApply(t, s, ranges, lbYAML("a", "", "ipFamilyPolicy: PreferDualStack"))
	expect("a", "") // no pool yet
	mustApply(t, s, poolYAML("p", `addresses: [192.0.2.1/32, "fd77::1/128"]`))
	again("a", "a")
	expect("a", "192.0.2.1 fd77::1")
	if done, err := apply(t, s, lbYAML("a", "", "ipFamilyPolicy: PreferDualStack")); done != objectstore.Unchanged || err != nil {
		t.Errorf("applied again: %v %v", done, err)
	}
	mustApply(t, s, lbYAML("b", "", ""))
	again("b")
	expect("b", "") // exhausted
	if why, err := s.Objects.Pending(context.Background(), service(t, s, "b")); err != nil || len(why) != 1 ||
		why[0] != "every IPv4 address of p is taken" {
		t.Errorf("b waits because of %q (%v)", why, err)
	}
	if why, err := s.Objects.Pending(context.Background(), service(t, s, "a")); err != nil || why != nil {
		t.Errorf("a waits because of %q (%v)", why, err)
	}
	mustApply(t, s, poolYAML("q", "addresses: [192.0.2.2-192.0.2.3], autoAssign: false"))
	again("b")
	expect("b", "") // assigned on request only
	mustApply(t, s, lbYAML("b", "warren.dev/address-pool: q, warren.dev/loadbalancer-ips: 192.0.2.3", ""))
	expect("b", "192.0.2.3")
	mustApply(t, s, lbYAML("c", "", "loadBalancerIP: 192.0.2.3"))
	expect("c", "") // held by another Service
	remove(t, s, "svc", "b")
	again("c")
	expect("c", "192.0.2.3")
	// The deletion of a pool withdraws no address, and no other Service gets a held one.
	remove(t, s, "pool", "p")
	mustApply(t, s, lbYAML("a", "", "ipFamilyPolicy: PreferDualStack, sessionAffinity: ClientIP"))
	expect("a", "192.0.2.1 fd77::1")
	mustApply(t, s, poolYAML("p", "addresses: [192.0.2.0/31]"), lbYAML("d", "warren.dev/loadbalancer-ips: 192.0.2.1", ""))
	expect("d", "")
	// Another type, and another class, give it back.
	mustApply(t, s, svcYAML("a", "type: NodePort"))
	expect("a", "")
	again("d")
	expect("d", "192.0.2.1")
	mustApply(t, s, lbYAML("d", "", "loadBalancerClass: example.com/lb"),
		lbYAML("e", "warren.dev/loadbalancer-ips: 192.0.2.1", "loadBalancerClass: warren.dev/lb, allocateLoadBalancerNodePorts: false"))
	expect("d", "")
	expect("e", "192.0.2.1")
	again("d")
	expect("d", "")
	if p := service(t, s, "e").Spec.Ports[0].NodePort; p != 0 {
		t.Errorf("node port %d in spite of allocateLoadBalancerNodePorts", p)
	}
	// The status of another controller is kept, and a manifest cannot assign an address.
	foreign := lbYAML("f", "", "loadBalancerClass: example.com/lb")
	mustApply(t, s, foreign+"status: {loadBalancer: {ingress: [{ip: 198.51.100.1, ipMode: VIP}]}}\n", foreign)
	expect("f", "198.51.100.1")
	mustApply(t, s, lbYAML("g", "warren.dev/loadbalancer-ips: 192.0.2.1",
		"")+"status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ipMode: VIP}]}}\n")
	expect("g", "")
	// Sharing: the key, and other ports.
	mustApply(t, s, lbYAML("e", "warren.dev/allow-shared-ip: k", ""),
		strings.Replace(lbYAML("g", "warren.dev/allow-shared-ip: k", ""), "port: 80", "port: 81", 1))
	expect("g", "192.0.2.1")
	mustApply(t, s, lbYAML("g", "warren.dev/allow-shared-ip: k", "")) // now both want port 80
	expect("g", "192.0.2.0")
	expect("e", "192.0.2.1")
	remove(t, s, "svc", "e")
	mustApply(t, s, lbYAML("h", "warren.dev/loadbalancer-ips: 192.0.2.1", ""))
	expect("h", "192.0.2.1")
}

// An overlapping pool is refused with an error that names the field and the owner of the addresses.
func TestApply_OverlappingPool_IsRefused(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "overlap")
	ctx := context.Background()
	pods := model.Cluster{Name: "overlap", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, BlockBits: [2]int{24, 64},
		Domain: "cluster.local", Port: 51820}
	if _, err := s.EnsureCluster(ctx, pods); err != nil {
		t.Fatal(err)
	}
	n := model.Node{Name: "n1", Identity: "id1", PublicKey: model.Key{1}, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.5")}}
	if _, err := s.PutNode(ctx, n); err != nil {
		t.Fatal(err)
	}
	mustApply(t, s, ranges, poolYAML("p", "addresses: [203.0.113.0/28]"), poolYAML("p", "addresses: [203.0.113.0/27]"))
	for want, y := range map[string]string{
		"spec.addresses[1]: 203.0.113.30-203.0.113.40 overlaps 203.0.113.0-203.0.113.31 of AddressPool p": poolYAML("q",
			"addresses: [203.0.113.64/28, 203.0.113.30-203.0.113.40]"),
		"spec.addresses[0]: 10.42.7.0/24 overlaps 10.42.0.0-10.42.255.255 (Pods)": poolYAML("q",
			"addresses: [10.42.7.0/24]"),
		"spec.addresses[0]: fd43::/120 overlaps fd43::-fd43::ffff (Services)": poolYAML("q",
			`addresses: ["fd43::/120"]`),
		"spec.cidrs[0]: 203.0.113.0/24 overlaps 203.0.113.0-203.0.113.31 of AddressPool p": strings.Replace(ranges,
			`10.43.0.0/16, "fd43::/112"`, "203.0.113.0/24", 1),
		"of node n1": poolYAML("q", "addresses: [192.0.2.0/24]"),
	} {
		t.Run(want, func(t *testing.T) {
			if _, err := apply(t, s, y); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v, expected %q", err, want)
			}
		})
	}
}

// More Services than addresses are applied concurrently, released addresses are assigned again, and overlapping pools are
// applied concurrently. No address has two holders, none stays free while a Service waits, and one of the pools is accepted.
func TestApply_ConcurrentLoadBalancers_EachAddressHasOneHolder(t *testing.T) {
	url := etcdtest.Start(t)
	s := etcdtest.Open(t, url, "lbrace")
	mustApply(t, s, ranges, poolYAML("p", "addresses: [192.0.2.0/28]"))
	const n = 24
	each := func(do func(i int) error) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if err := do(i); err != nil {
					t.Errorf("service %d: %v", i, err)
				}
			})
		}
		wg.Wait()
	}
	name := func(i int) model.ObjectName {
		return model.ObjectName{Namespace: "default", Name: fmt.Sprintf("s%d", i)}
	}
	held := func() map[string]string {
		out := map[string]string{}
		for i := range n {
			if k, _ := objects.KindNamed("svc"); i%4 == 0 {
				if _, err := s.Objects.Get(context.Background(), k, "default", name(i).Name); errors.Is(err, objectstore.ErrNotFound) {
					continue
				}
			}
			a := ingress(t, s, name(i).Name)
			if who := out[a]; a != "" && who != "" {
				t.Errorf("%s is held by %s and %s", a, who, name(i))
			}
			out[a] = name(i).Name
		}
		delete(out, "")
		return out
	}
	each(func(i int) error {
		_, err := s.Objects.Apply(context.Background(), parse(t, lbYAML(name(i).Name, "", ""))[0])
		return err
	})
	if got := held(); len(got) != 16 {
		t.Errorf("%d of 16 addresses are held: %v", len(got), got)
	}
	k, _ := objects.KindNamed("svc")
	each(func(i int) error {
		if i%4 == 0 {
			return s.Objects.Delete(context.Background(), k, "default", name(i).Name)
		}
		return s.Objects.Allocate(context.Background(), name(i))
	})
	each(func(i int) error {
		if i%4 == 0 {
			return nil
		}
		return s.Objects.Allocate(context.Background(), name(i))
	})
	if got := held(); len(got) != 16 {
		t.Errorf("after the deletions %d of 16 addresses are held: %v", len(got), got)
	}
	var done, refused int
	var mu sync.Mutex
	each(func(i int) error {
		_, err := s.Objects.Apply(context.Background(), parse(t, poolYAML(fmt.Sprintf("q%d", i), "addresses: [198.51.100.0/28]"))[0])
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			done++
			return nil
		}
		refused++
		return nil
	})
	if done != 1 || refused != n-1 {
		t.Errorf("%d of %d pools with the same addresses were accepted", done, n)
	}
}

// The snapshot has the pools and the held addresses, so that every node can determine why a Service waits.
func TestWatch_AddressPool_IsInTheSnapshot(t *testing.T) {
	s := etcdtest.Open(t, etcdtest.Start(t), "lbsnap")
	mustApply(t, s, ranges, poolYAML("p", "addresses: [192.0.2.1/32], namespaces: [default], priority: 3"), lbYAML("a", "", ""),
		lbYAML("b", "", ""))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = s.Watch(ctx, func(snap *model.Snapshot) {
		cancel()
		if len(snap.Pools) != 1 || snap.Pools[0].Name != "p" || snap.Pools[0].Priority != 3 || !snap.Pools[0].AutoAssign {
			t.Errorf("pools %+v", snap.Pools)
		}
		taken := lbpool.TakenBy(snap.Services)
		r, err := lbpool.RequestOf(&snap.Services[1])
		if _, why := lbpool.Choose(r, snap.Pools, taken); err != nil || len(why) != 1 || why[0] != "every IPv4 address of p is taken" {
			t.Errorf("b waits because of %v %v", why, err)
		}
	}, func() {})
}
