package dns

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"github.com/warrennet/warren/dns/internal/dnstest"
)

// Snapshots are swapped under load. Every query gets a correct answer.
func TestServer_SnapshotsSwappedUnderLoad_EveryAnswerCorrect(t *testing.T) {
	s, at := start(t, Config{Workers: 2})
	snap := dnstest.Cluster(400, 4000)
	s.Set(snap)
	var stop atomic.Bool
	var wg sync.WaitGroup
	var answered [3]atomic.Int64
	for w := range 3 {
		wg.Go(func() { queryWhile(t, at, w, &answered[w], &stop) })
	}
	for i := 0; i < 200 || answered[0].Load() < 500 || answered[1].Load() < 500 || answered[2].Load() < 500; i++ {
		snap = dnstest.ChangeEndpoint(snap, i%200, netip.AddrFrom4([4]byte{10, 100, byte(i >> 8), byte(i)}))
		s.Set(snap)
		if t.Failed() {
			break
		}
	}
	stop.Store(true)
	wg.Wait()
}

// queryWhile queries names that never change and names that do. A lost datagram would be a timeout.
func queryWhile(t *testing.T, at netip.AddrPort, w int, answered *atomic.Int64, stop *atomic.Bool) {
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	conn := &mdns.Conn{Conn: c}
	for i := 0; !stop.Load(); i++ {
		n := 200 + (i*7+w)%200
		q := new(mdns.Msg).SetQuestion(fmt.Sprintf("svc-%d.ns%02d.svc.cluster.local.", n, n%20), mdns.TypeA)
		want := netip.AddrFrom4([4]byte{10, 128, byte(n >> 8), byte(n)}).String()
		if i%2 == 1 { // a headless one: always twenty endpoints
			q = new(mdns.Msg).SetQuestion(fmt.Sprintf("svc-%d.ns%02d.svc.cluster.local.", n-200, (n-200)%20), mdns.TypeA)
			want = ""
		}
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		if err := conn.WriteMsg(q); err != nil {
			t.Error(err)
			return
		}
		r, err := conn.ReadMsg()
		if err != nil {
			t.Errorf("%s: %v", q.Question[0].Name, err)
			return
		}
		if want != "" && (len(r.Answer) != 1 || r.Answer[0].(*mdns.A).A.String() != want) || want == "" && len(r.Answer) != 20 {
			t.Errorf("%s: %v, want %s", q.Question[0].Name, r, want)
			return
		}
		answered.Add(1)
	}
}
