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
