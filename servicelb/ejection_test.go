package servicelb

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/servicelb/internal/table"
)

// rig is a Service with backends that the test lets answer or fail.
type rig struct {
	*testing.T
	*Balancer
	a     testAddrs
	svc   model.Service
	parts []model.EndpointSlice
	maker *Builder
	down  map[netip.Addr]bool
	port  uint16
	last  netip.Addr // of the clients
}

// newRig makes a Service with n backends on another node.
func newRig(t *testing.T, a testAddrs, n int, annotations map[string]string) *rig {
	r := &rig{T: t, a: a, maker: &Builder{}, down: map[netip.Addr]bool{}, port: 1024, last: ip(a.outside)}
	var backends []string
	for i, x := 0, ip(a.far); i < n; i, x = i+1, x.Next() {
		backends = append(backends, x.String())
	}
	r.svc, r.parts = service("web", packet.ProtoTCP, a.vip, 80, 8080, backends...)
	r.svc.Annotations = annotations
	r.Balancer = newBalancer(t, 8192, r.maker.Build(testSelf(), r.snap()))
	return r
}

func (r *rig) snap() *model.Snapshot {
	s := snap([]model.Service{r.svc}, nil)
	for _, p := range r.parts {
		p.Endpoints = append([]model.Endpoint(nil), p.Endpoints...)
		s.Slices = append(s.Slices, p)
	}
	return s
}

// back is the backend of that number.
func (r *rig) back(i int) netip.Addr {
	x := ip(r.a.far)
	for range i {
		x = x.Next()
	}
	return x
}

// syn begins a connection of a client's and returns its packet as the backend sees it.
func (r *rig) syn(client string) *packet.Packet {
	r.Helper()
	r.port++
	p := mk(packet.ProtoTCP, at(client, r.port), at(r.a.vip, 80), packet.SYN)
	want(r.T, r.Balancer, r.Outbound(p), packet.VerdictPeer, "SYN")
	return p
}

// answer sends the backend's answer to a packet.
func (r *rig) answer(p *packet.Packet) {
	r.Helper()
	flags := uint8(packet.SYN | packet.ACK)
	if r.down[p.Dst] {
		flags = packet.RST | packet.ACK
	}
	want(r.T, r.Balancer, r.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), flags)), packet.VerdictReflect, "answer")
}

// client returns the address of another external client: of another /64 with IPv6.
func (r *rig) client() string {
	if r.last.Is4() {
		r.last = r.last.Next()
		return r.last.String()
	}
	b := r.last.As16()
	binary.BigEndian.PutUint64(b[:], binary.BigEndian.Uint64(b[:])+1)
	r.last = netip.AddrFrom16(b)
	return r.last.String()
}

// calls makes n connections, each of another client, and counts which backends they reached.
func (r *rig) calls(n int) map[netip.Addr]int {
	r.Helper()
	out := map[netip.Addr]int{}
	for range n {
		p := r.syn(r.client())
		out[p.Dst]++
		r.answer(p)
	}
	return out
}

var eject5 = map[string]string{EjectAnnotation: "5"}

// A backend that refuses is selected five times and then not for ten seconds. One connection tries it, then one of
// another client, then none for twenty seconds. The next trial succeeds and the backend is selected again. So with every algorithm.
func TestEjection_BackendRefuses_EjectedThenTried(t *testing.T) {
	for _, algo := range []string{"random", "round-robin", "least-connections", "maglev", "affinity"} {
		t.Run(algo, func(t *testing.T) {
			eachFamily(t, func(t *testing.T, a testAddrs) {
				r := newRig(t, a, 3, map[string]string{EjectAnnotation: "5", Annotation: algo})
				if algo == "affinity" {
					r.svc.Affinity = time.Hour
					r.Set(r.maker.Build(testSelf(), r.snap()))
				}
				bad := r.back(1)
				r.down[bad] = true
				reached := func(what string, n int) {
					t.Helper()
					count := r.calls(100)
					if count[bad] != n || len(count) < 2 || count[r.back(0)] < 20 || count[r.back(2)] < 20 {
						t.Fatalf("%s: %v, want %d at %v; %+v", what, count, n, bad, r.Ejections())
					}
				}
				reached("at first", 5)
				if got := r.Ejections(); len(got) != 1 || got[0] != (Ejection{"d/web", "", netip.AddrPortFrom(bad, 8080), 10}) {
					t.Errorf("%+v", got)
				}
				r.clock.Add(9)
				reached("ejected", 0)
				r.clock.Add(1)
				trials := 0
				for range 60 {
					p := r.syn(r.client())
					if p.Dst == bad {
						trials++
						defer r.answer(p) // after every timeout
					}
				}
				if trials != 1 {
					t.Fatalf("%d connections try at once", trials)
				}
				reached("during a trial", 0)
				r.clock.Add(table.TrialTime)
				reached("another trial, of two clients", 2)
				r.clock.Add(19)
				reached("ejected for longer", 0)
				r.clock.Add(1)
				delete(r.down, bad)
				if n := r.calls(100)[bad]; n < 20 || n == 100 {
					t.Errorf("%d of 100 connections after the trial", n)
				}
				if got := r.Ejections(); len(got) != 0 {
					t.Errorf("%+v", got)
				}
				if n := r.Stats().Services["d/web"].Ejections; n != 2 {
					t.Errorf("%d ejections are counted", n)
				}
			})
		})
	}
}

// Nothing is ejected without the annotation, nor if connections succeed in between.
func TestEjection_WithoutAnnotationOrFailuresInARow_None(t *testing.T) {
	a := families["4"]
	for _, value := range []string{"", "0", "-1", "many", "5000"} {
		t.Run(value, func(t *testing.T) {
			r := newRig(t, a, 3, map[string]string{EjectAnnotation: value})
			r.down[r.back(1)] = true
			if n := r.calls(300)[r.back(1)]; n < 60 {
				t.Errorf("%q: %d of 300 connections", value, n)
			}
		})
	}
	r := newRig(t, a, 3, eject5)
	for i := range 100 {
		r.down[r.back(1)] = i%5 != 4
		p := r.syn(a.pod)
		for p.Dst != r.back(1) {
			p = r.syn(a.pod)
		}
		r.answer(p)
	}
	if got := r.Ejections(); len(got) != 0 {
		t.Errorf("four failures and one success, again and again: %+v", got)
	}
}

// Never more than half of the backends are ejected: neither by failures, nor when other backends are removed.
func TestEjection_AllBackendsFail_HalfRemain(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		for n, most := range map[int]int{1: 0, 2: 1, 3: 1, 4: 2, 5: 2} {
			t.Run(fmt.Sprintf("%d backends", n), func(t *testing.T) {
				r := newRig(t, a, n, eject5)
				for i := range n {
					r.down[r.back(i)] = true
				}
				r.calls(400)
				if got := r.Ejections(); len(got) != most {
					t.Errorf("of %d backends %d are out: %+v", n, len(got), got)
				}
				if n != 4 {
					return
				}
				for i := range r.parts {
					for j := range r.parts[i].Endpoints {
						e := &r.parts[i].Endpoints[j]
						e.Ready = r.Ejections()[0].Backend.Addr() == e.Addr || r.Ejections()[1].Backend.Addr() == e.Addr ||
							e.Addr == r.back(0)
					}
				}
				r.Set(r.maker.Build(testSelf(), r.snap()))
				if count := r.calls(100); len(count) < 2 {
					t.Errorf("of the remaining backends only %v is selected", count)
				}
			})
		}
	})
}

// A connection counts as one failure: when its SYN is repeated after three seconds, when it ends without an answer, or at
// an ICMP destination unreachable. "Fragmentation needed" is no failure.
func TestEjection_UnansweredConnection_CountsOnce(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		repeat := func(r *rig, p *packet.Packet) {
			q := mk(packet.ProtoTCP, p.Source(), at(a.vip, 80), packet.SYN)
			want(t, r.Balancer, r.Outbound(q), packet.VerdictPeer, "SYN again")
		}
		unreachable := func(r *rig, p *packet.Packet, what packet.Unreachable) {
			e := new(packet.Packet)
			e.Parse(append(make([]byte, 0, 2048), p.AppendUnreachable(nil, ip(a.peer), what)...))
			r.Inbound(e)
		}
		for name, fails := range map[string]func(r *rig, p *packet.Packet){
			"repeated": func(r *rig, p *packet.Packet) {
				r.clock.Add(1)
				repeat(r, p)
				r.clock.Add(2)
				repeat(r, p)
				repeat(r, p)
				if r.port%2 == 0 { // they end some time
					r.clock.Add(2)
					r.flows.Sweep(r.now() + 40)
				}
			},
			"ended": func(r *rig, _ *packet.Packet) {
				r.clock.Add(40)
				r.flows.Sweep(r.now())
			},
			"unreachable": func(r *rig, p *packet.Packet) {
				unreachable(r, p, packet.NoHost)
				unreachable(r, p, packet.NoHost)
				want(t, r.Balancer, r.Inbound(mk(packet.ProtoTCP, p.Destination(), p.Source(), packet.RST)), packet.VerdictReflect, "RST")
			},
		} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, a, 2, eject5)
				for n := 0; n < 5; {
					if len(r.Ejections()) != 0 {
						t.Fatalf("%s: out after %d", name, n)
					}
					client := ip(a.pod)
					if n >= 2 {
						client = client.Next()
					}
					p := r.syn(client.String())
					if p.Dst != r.back(0) {
						r.answer(p)
						continue
					}
					fails(r, p)
					n++
				}
				if got := r.Ejections(); len(got) != 1 || got[0].Backend.Addr() != r.back(0) {
					t.Errorf("%s: %+v", name, got)
				}
			})
		}
		r := newRig(t, a, 2, map[string]string{EjectAnnotation: "1"})
		p := r.syn(a.pod)
		want(t, r.Balancer, r.Inbound(tooBig(p, ip(a.peer))), packet.VerdictReflect, "an error about a packet that was too large")
		if got := r.Ejections(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		r.answer(p)
		unreachable(r, p, packet.NoHost) // of an established connection
		if got := r.Ejections(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
		p = r.syn(a.pod)
		r.Outbound(mk(packet.ProtoTCP, at(a.pod, p.SrcPort), at(a.vip, 80), packet.RST)) // the client gives up
		if got := r.Ejections(); len(got) != 0 {
			t.Errorf("%+v", got)
		}
	})
}

// tooBig is the ICMP error for a packet that was too large.
func tooBig(p *packet.Packet, from netip.Addr) *packet.Packet {
	e := errorAbout(p, from)
	if e.Version == 4 {
		e.Buf[e.L4+1] = 4
	} else {
		e.Buf[e.L4] = 2
	}
	return parsed(e.Buf)
}

// The record of a backend survives changes of its Service, of the node and of other objects. It ends with the annotation
// and with the backend. Established connections continue.
func TestEjection_TableChanges_RecordsRetained(t *testing.T) {
	a := families["4"]
	r := newRig(t, a, 3, eject5)
	old := r.syn(a.pod)
	for old.Dst != r.back(1) {
		old = r.syn(a.pod)
	}
	r.answer(old)
	r.down[r.back(1)] = true
	r.calls(50)
	is := func(what string, n int) {
		t.Helper()
		if got := r.Ejections(); len(got) != n {
			t.Fatalf("%s: %+v", what, got)
		}
	}
	is("at first", 1)
	self := testSelf()
	set := func() { r.Set(r.maker.Build(self, r.snap())) }
	r.parts[0].Endpoints[0].Ready = false
	set()
	is("another endpoint is not ready", 1)
	self.Peers = append(self.Peers, ip("192.168.0.3"))
	set()
	is("another node came", 1)
	p := mk(packet.ProtoTCP, at(a.pod, old.SrcPort), at(a.vip, 80), packet.ACK)
	if want(t, r.Balancer, r.Outbound(p), packet.VerdictPeer, "an established connection"); p.Destination() != old.Destination() {
		t.Errorf("it went to %v", p.Destination())
	}
	r.svc.Annotations = nil
	set()
	is("switched off", 0)
	r.svc.Annotations = eject5
	set()
	is("and on", 0)
	r.calls(50)
	is("again", 1)
	kept := r.parts[0].Endpoints
	r.parts[0].Endpoints = kept[:1]
	set()
	r.parts[0].Endpoints = kept
	set()
	is("the backend is a new one", 0)
}

// A session leaves an ejected backend and stays at the new one.
func TestEjection_SessionAffinity_SessionMovesAndStays(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		r := newRig(t, a, 3, eject5)
		r.svc.Affinity = time.Hour
		r.Set(r.maker.Build(testSelf(), r.snap()))
		home := r.syn(a.pod).Dst
		r.down[home] = true
		for range 5 {
			p := r.syn(a.pod)
			if p.Dst != home {
				t.Fatalf("left after the failures of one client: %v", p.Dst)
			}
			r.answer(p)
		}
		for failed := 0; failed < 2; {
			if p := r.syn(r.client()); p.Dst == home {
				r.answer(p)
				failed++
			}
		}
		next := r.syn(a.pod).Dst
		if next == home {
			t.Fatal("the session stays at an ejected backend")
		}
		r.clock.Add(1000)
		delete(r.down, home)
		for range 20 {
			p := r.syn(a.pod)
			if p.Dst != next {
				t.Fatalf("the session moved from %v to %v", next, p.Dst)
			}
			r.answer(p)
		}
	})
}

// One Pod makes all of its connections to a backend fail. Other Pods' connections succeed, or there are none: the backend is
// never ejected, neither at first nor after a trial.
func TestEjection_FailuresOfOneClient_NotEjected(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		r := newRig(t, a, 2, map[string]string{EjectAnnotation: "3"})
		target := r.back(0)
		fail := func(client string) {
			p := r.syn(client)
			for p.Dst != target {
				p = r.syn(client)
			}
			r.down[target] = true
			r.answer(p)
			delete(r.down, target)
		}
		for range 100 {
			fail(a.pod)
		}
		if got := r.Ejections(); len(got) != 0 {
			t.Fatalf("one client has had a backend ejected: %+v", got)
		}
		honest := ip(a.pod).Next().String()
		failed := 0
		for range 200 {
			fail(a.pod)
			p := r.syn(honest)
			r.answer(p)
			if len(r.Ejections()) != 0 {
				failed++
			}
		}
		if failed > 0 {
			t.Errorf("the backend was ejected %d times while connections of another client succeeded", failed)
		}
	})
}

// After an ejection one Pod makes every trial fail. The first connection of another client that the backend answers
// ends the ejection.
func TestEjection_TrialsOfOneClientFail_NotEjectedAgain(t *testing.T) {
	a := families["4"]
	r := newRig(t, a, 2, map[string]string{EjectAnnotation: "2"})
	target := r.back(0)
	r.down[target] = true
	r.calls(50)
	if len(r.Ejections()) != 1 {
		t.Fatal("the backend was not ejected")
	}
	r.clock.Add(10)
	for range 50 {
		p := r.syn(a.pod)
		r.answer(p)
	}
	delete(r.down, target)
	honest := 0
	for range 50 {
		p := r.syn(ip(a.pod).Next().String())
		if p.Dst == target {
			honest++
		}
		r.answer(p)
	}
	if got := r.Ejections(); len(got) != 0 || honest == 0 {
		t.Errorf("%d connections of another client have reached the backend; %+v", honest, got)
	}
}
