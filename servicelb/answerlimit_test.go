package servicelb

import (
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

// One Pod sends to closed ports without end. Its answers stop at the rate; another Pod gets each of its own.
func TestAnswers_FloodOfOneClient_OtherClientsAnswered(t *testing.T) {
	eachFamily(t, func(t *testing.T, a testAddrs) {
		b := newBalancer(t, 64, tableOf(service("web", packet.ProtoTCP, a.vip, 80, 8080, a.far)))
		kinds := map[string]func(src string) *packet.Packet{
			"reset":       func(src string) *packet.Packet { return mk(packet.ProtoTCP, at(src, 1), at(a.vip, 81), packet.SYN) },
			"unreachable": func(src string) *packet.Packet { return mk(packet.ProtoUDP, at(src, 1), at(a.vip, 81), 0) },
			"echo reply":  func(src string) *packet.Packet { return echoOf(ip(src), ip(a.vip), true, 7) },
		}
		for name, kind := range kinds {
			t.Run(name, func(t *testing.T) {
				b.clock.Add(1)
				answered := 0
				for range 3 * answersPerSecond {
					if b.Outbound(kind(a.pod)) == packet.VerdictReply {
						answered++
					}
				}
				if answered != answersPerSecond {
					t.Errorf("%d answers to the flood, expected %d", answered, answersPerSecond)
				}
				for range 100 {
					want(t, b, b.Outbound(kind(ip(a.pod).Next().String())), packet.VerdictReply, "another Pod")
				}
				b.clock.Add(1)
				want(t, b, b.Outbound(kind(a.pod)), packet.VerdictReply, "a second later")
			})
		}
	})
}

// Time exceeded about packets from one peer to another has the rate of the client, not that of the address behind which
// the backend sees it.
func TestForward_TTLUsedUpByFlood_OtherClientsAnswered(t *testing.T) {
	for fam, a := range map[string][4]string{"4": {"10.42.1.5", "10.42.3.6", "192.168.0.2", "10.42.3.5"},
		"6": {"fd42:0:0:1::5", "fd42:0:0:3::6", "fd00::2", "fd42:0:0:3::5"}} {
		t.Run(fam, func(t *testing.T) {
			svc, parts := nodePort("web", packet.ProtoUDP, 30080, 8080, a[3])
			b := newBalancer(t, 64, onlyService(2, svc, parts))
			pass := func(client string) packet.Verdict {
				p := mk(packet.ProtoUDP, at(client, 4000), at(a[2], 30080), 0)
				p.SetTTL(1)
				return b.Inbound(p)
			}
			answered := 0
			for range 3 * answersPerSecond {
				if pass(a[0]) == packet.VerdictPeer {
					answered++
				}
			}
			if answered != answersPerSecond {
				t.Errorf("%d answers to the flood, expected %d", answered, answersPerSecond)
			}
			want(t, b, pass(a[1]), packet.VerdictPeer, "a client on another node")
			dropped := b.Stats().Dropped
			if dropped["ttl_exceeded"] != answersPerSecond+1 || dropped["answer_rate"] != 2*answersPerSecond {
				t.Errorf("%v", nonzero(dropped))
			}
			b.clock.Add(1)
			want(t, b, pass(a[0]), packet.VerdictPeer, "a second later")
		})
	}
}
