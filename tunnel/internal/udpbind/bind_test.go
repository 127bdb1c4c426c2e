package udpbind

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

// openBind opens a real bind on loopback ports and returns its receive functions.
func openBind(t *testing.T, offload bool, stats *counters.Set) (*Bind, []conn.ReceiveFunc, uint16) {
	t.Helper()
	b := New(Config{SegmentationOffload: offload, Log: tuntest.QuietLog, Stats: stats})
	fns, port, err := b.Open(0)
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b, fns, port
}

// sizesCases are batches whose sizes matter to segmentation and coalescing.
var sizesCases = map[string][]int{
	"one":          {100},
	"equal":        {1000, 1000, 1000, 1000},
	"short last":   {1000, 1000, 300},
	"mixed":        {1000, 300, 1000, 1000, 1, 1400, 1400, 900, 900},
	"growing":      {100, 200, 300, 400},
	"more than 64": repeat(500, 128),
	"over 64 KB":   repeat(1400, 100),
	"tiny":         repeat(1, 128),
}

func newTestBind() *Bind {
	return New(Config{SegmentationOffload: true, Log: tuntest.QuietLog, Stats: &counters.Set{}})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func repeat(n, times int) (out []int) {
	for range times {
		out = append(out, n)
	}
	return out
}

func TestBind_BatchesOfAnySizes_ArriveUnchanged(t *testing.T) {
	for _, offload := range []bool{true, false} {
		for i, host := range []string{"127.0.0.1", "::1"} {
			var stats counters.Set
			from, _, _ := openBind(t, offload, &stats)
			to, fns, port := openBind(t, offload, &stats)
			ep, err := from.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
			must(t, err)
			for name, sizes := range sizesCases {
				t.Run(fmt.Sprintf("%s/%s/%v", name, host, offload), func(t *testing.T) {
					var want [][]byte
					for k, n := range sizes {
						want = append(want, append(bytes.Repeat([]byte{byte(k)}, n-1), byte(n)))
					}
					must(t, from.Send(want, ep))
					var got [][]byte
					for len(got) < len(want) {
						bufs, n := tuntest.Buffers(limits.MaxBatch)
						eps := make([]conn.Endpoint, limits.MaxBatch)
						count, err := fns[i](bufs, n, eps)
						must(t, err)
						for k := range count {
							if n[k] > 0 {
								got = append(got, bytes.Clone(bufs[k][:n[k]]))
								if eps[k].DstIP() != netip.MustParseAddr(host) || eps[k].(*Endpoint).SrcIP() != netip.MustParseAddr(host) {
									t.Fatalf("from %v to %v", eps[k].DstToString(), eps[k].SrcToString())
								}
							}
						}
					}
					if !tuntest.Same(got, want) {
						t.Errorf("%d datagrams arrived changed", len(want))
					}
				})
			}
			if s := stats.Read(); offload && s.Sends >= s.Datagrams || s.Fallbacks != 0 {
				t.Errorf("%d messages for %d datagrams, %d fallbacks", s.Sends, s.Datagrams, s.Fallbacks)
			}
			to.Close()
			bufs, n := tuntest.Buffers(1)
			if _, err := fns[i](bufs, n, make([]conn.Endpoint, 1)); err != net.ErrClosed {
				t.Errorf("receive after close: %v", err)
			}
		}
	}
}

// The WireGuard device closes and opens again.
func TestBind_ReopenedPort_IsTheSame(t *testing.T) {
	b, _, port := openBind(t, true, &counters.Set{})
	if _, _, err := b.Open(0); err != conn.ErrBindAlreadyOpen {
		t.Errorf("second open: %v", err)
	}
	must(t, b.Close())
	_, again, err := b.Open(port)
	must(t, err)
	if again != port {
		t.Errorf("port %d, want %d", again, port)
	}
}

// Datagrams are sent although the host has lost the local address.
func TestBind_LocalAddressGone_DatagramsAreSent(t *testing.T) {
	from, _, _ := openBind(t, true, &counters.Set{})
	_, fns, port := openBind(t, true, &counters.Set{})
	e := NewEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	e.stick(source{addr: netip.MustParseAddr("192.0.2.55")})
	must(t, from.Send([][]byte{tuntest.Pattern(100), tuntest.Pattern(100)}, e))
	bufs, n := tuntest.Buffers(4)
	if _, err := fns[0](bufs, n, make([]conn.Endpoint, 4)); err != nil || n[0] != 100 {
		t.Errorf("received %d bytes, %v", n[0], err)
	}
	if e.SrcToString() != "" {
		t.Error("the local address is still set")
	}
}

func TestBind_SegmentedSendFails_RepeatsOrDisables(t *testing.T) {
	for _, c := range []struct {
		err    error
		worked bool
		repeat bool
		gso    bool // still in use
	}{
		{unix.EIO, true, true, false},
		{unix.EIO, false, true, false},
		{unix.EINVAL, false, true, false},
		{unix.EINVAL, true, true, true},
		{unix.EMSGSIZE, true, true, true},
		{unix.ENETUNREACH, true, false, true},
		{unix.EPERM, true, false, true},
	} {
		t.Run(fmt.Sprintf("%v, worked %v", c.err, c.worked), func(t *testing.T) {
			b, s, e := newTestBind(), &socket{}, NewEndpoint(netip.MustParseAddrPort("192.0.2.1:1"))
			s.gso.Store(true)
			s.good.Store(c.worked)
			if got := b.repeatSingly(s, e, 1400, c.err); got != c.repeat || s.gso.Load() != c.gso {
				t.Errorf("%v after success=%v: repeat %v, in use %v", c.err, c.worked, got, s.gso.Load())
			}
			if c.err == unix.EMSGSIZE {
				small, large := [][]byte{tuntest.Pattern(1200)}, [][]byte{tuntest.Pattern(1400)}
				if !e.maySegment(small) || e.maySegment(large) {
					t.Error("the refused size is not stored")
				}
				for range skipSends {
					e.maySegment(large)
				}
				if !e.maySegment(large) {
					t.Error("the refused size is never used again")
				}
			}
		})
	}
}

func TestReceiver_ForgedSenders_MemoryIsBounded(t *testing.T) {
	r := newReceiver(&socket{}, &counters.Set{}, nil)
	for i := range 3 * maxEndpoints {
		sa := NewEndpoint(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), uint16(i>>16)+1))
		copy(r.name[:], sa.sa[:])
		r.origin()
	}
	if len(r.known) > maxEndpoints {
		t.Errorf("%d endpoints kept", len(r.known))
	}
}

func TestBind_SendAndReceive_AllocateNothing(t *testing.T) {
	if raceOn {
		t.Skip("not countable under the race detector")
	}
	from, _, _ := openBind(t, true, &counters.Set{})
	_, fns, port := openBind(t, true, &counters.Set{})
	e := NewEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	out := make([][]byte, 40)
	for i := range out {
		out[i] = tuntest.Pattern(1400)
	}
	bufs, n := tuntest.Buffers(limits.MaxBatch)
	eps := make([]conn.Endpoint, limits.MaxBatch)
	if a := testing.AllocsPerRun(50, func() {
		from.Send(out, e)
		fns[0](bufs, n, eps)
	}); a > 0.1 {
		t.Errorf("%v allocations per batch", a)
	}
}

func BenchmarkBind(b *testing.B) {
	for _, size := range []int{112, 1452} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			from, to := newTestBind(), newTestBind()
			from.Open(0)
			fns, port, _ := to.Open(0)
			defer from.Close()
			defer to.Close()
			e := NewEndpoint(netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			out := make([][]byte, 44)
			for i := range out {
				out[i] = tuntest.Pattern(size)
			}
			bufs, n := tuntest.Buffers(limits.MaxBatch)
			eps := make([]conn.Endpoint, limits.MaxBatch)
			b.SetBytes(int64(size * len(out)))
			b.ReportAllocs()
			for b.Loop() {
				from.Send(out, e)
				for got := 0; got < len(out); {
					k, _ := fns[0](bufs, n, eps)
					got += k
				}
			}
		})
	}
}
