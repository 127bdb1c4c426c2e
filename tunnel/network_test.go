package tunnel

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/packet"
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/limits"
	"github.com/warrennet/warren/tunnel/internal/tundev"
	"github.com/warrennet/warren/tunnel/internal/tuntest"
	"github.com/warrennet/warren/tunnel/internal/udpbind"
	"go.uber.org/goleak"
	"golang.zx2c4.com/wireguard/conn"
)

// network is UDP in memory: datagrams go to the host with the address, unless the filter lose returns true.
type network struct {
	mu    sync.Mutex
	hosts map[netip.AddrPort]chan datagram
	lose  atomic.Pointer[func(from, to netip.AddrPort, b []byte) bool]
}

type datagram struct {
	from netip.AddrPort
	data []byte
}

func newBind(offload bool) conn.Bind {
	return udpbind.New(udpbind.Config{SegmentationOffload: offload, Log: tuntest.QuietLog, Stats: &counters.Set{}})
}

// mark is a packet for the peer that no test hook changes.
var mark = tuntest.UDP(4, 1, []byte("mark")).Bytes()

// segmentsOf segments the packets written to the host again, with complete checksums.
func segmentsOf(t testing.TB, written [][]byte) (out [][]byte) {
	t.Helper()
	for _, raw := range written {
		p := packet.Packet{}
		p.Vnet.Decode(raw)
		if f := p.Parse(raw[packet.VnetLen:]); f != packet.OK || p.VnetFault() != packet.OK {
			t.Fatalf("the host received no packet: %v", f)
		}
		var c tundev.Segmenter
		for c.Start(&p, int(p.Vnet.GSOSize)); c.More(); {
			b := make([]byte, limits.MaxPacket)
			if n := c.Next(b); n > 0 {
				out = append(out, b[:n])
			}
		}
	}
	return out
}

func newNetwork() *network { return &network{hosts: map[netip.AddrPort]chan datagram{}} }

// chanBind is one host's socket on a network. It keeps the contract of conn.Bind.
type chanBind struct {
	net  *network
	addr netip.AddrPort
	gone chan struct{}
}

func (n *network) bind(addr string) *chanBind {
	return &chanBind{net: n, addr: netip.MustParseAddrPort(addr)}
}

func (b *chanBind) Open(uint16) ([]conn.ReceiveFunc, uint16, error) {
	in, gone := make(chan datagram, 4096), make(chan struct{})
	b.net.mu.Lock()
	b.net.hosts[b.addr], b.gone = in, gone
	b.net.mu.Unlock()
	known := map[netip.AddrPort]*udpbind.Endpoint{}
	fn := func(bufs [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
		for n := 0; ; {
			select {
			case d := <-in:
				if known[d.from] == nil {
					known[d.from] = udpbind.NewEndpoint(d.from)
				}
				sizes[n], eps[n] = copy(bufs[n], d.data), known[d.from]
				if n++; n == len(bufs) || len(in) == 0 {
					return n, nil
				}
			case <-gone:
				return 0, net.ErrClosed
			}
		}
	}
	return []conn.ReceiveFunc{fn}, b.addr.Port(), nil
}

func (b *chanBind) Close() error {
	b.net.mu.Lock()
	defer b.net.mu.Unlock()
	if b.gone != nil {
		close(b.gone)
		delete(b.net.hosts, b.addr)
		b.gone = nil
	}
	return nil
}

func (b *chanBind) SetMark(uint32) error { return nil }
func (b *chanBind) BatchSize() int       { return limits.MaxBatch }

func (b *chanBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	e, ok := ep.(*udpbind.Endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	b.net.mu.Lock()
	to := b.net.hosts[e.AddrPort()]
	b.net.mu.Unlock()
	for _, d := range bufs {
		if lose := b.net.lose.Load(); lose != nil && (*lose)(b.addr, e.AddrPort(), d) {
			continue
		}
		select {
		case to <- datagram{b.addr, append([]byte(nil), d...)}:
		default:
		}
	}
	return nil
}

func (b *chanBind) ParseEndpoint(s string) (conn.Endpoint, error) {
	a, err := netip.ParseAddrPort(s)
	return udpbind.NewEndpoint(a), err
}

// serial installs a filter that is called by one sender at a time.
func (n *network) serial(f *func(from, to netip.AddrPort, b []byte) bool) {
	var mu sync.Mutex
	g := func(from, to netip.AddrPort, b []byte) bool {
		mu.Lock()
		defer mu.Unlock()
		return (*f)(from, to, b)
	}
	n.lose.Store(&g)
}

// node is a whole tunnel in this process on a fake kernel.
type node struct {
	*Tunnel
	k    *tuntest.Kernel
	stop func()
}

func testKey(t testing.TB, n byte) model.Key {
	return model.Key{0: 8, 5: n, 31: 64}
}

// startNode runs a tunnel until the test ends, and joins it.
func startNode(t *testing.T, n byte, b conn.Bind, port uint16, h Hook, setup ...func(*Config, *parts)) *node {
	t.Helper()
	dir := t.TempDir()
	k := &tuntest.Kernel{}
	cfg := Config{Name: "test" + string('0'+n), PrivateKey: testKey(t, n), ListenPort: port, Queues: 1, Hook: h,
		LockFile: filepath.Join(dir, "lock"), UAPIDir: dir, Log: tuntest.QuietLog, MTU: 1420}
	p := parts{kernel: k, bind: b}
	for _, f := range setup {
		f(&cfg, &p)
	}
	tn, err := newTunnel(cfg, p)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tn.Run(ctx) }()
	select {
	case <-tn.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	x := &node{Tunnel: tn, k: k}
	var once sync.Once
	x.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
		})
	}
	t.Cleanup(x.stop)
	return x
}

func (n *node) queue() *tuntest.Queue { return n.k.Queue(0) }

func (n *node) peer(name string, ips []netip.Prefix, ends ...string) Peer {
	return Peer{Name: name, PublicKey: n.public, AllowedIPs: ips, Endpoints: addrPorts(ends...)}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func noLeaks(t *testing.T) {
	t.Helper()
	opt := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, opt) })
}

var (
	ipsA = prefixes("10.42.0.0/24", "fd42::/64")
	ipsB = prefixes("10.42.1.0/24", "fd42:0:0:1::/64")
)

// twoNodes joins two nodes over a pair of binds.
func twoNodes(t *testing.T, ba, bb conn.Bind, pa, pb uint16, addrA, addrB string) (a, b *node) {
	t.Helper()
	a, b = startNode(t, 1, ba, pa, nil), startNode(t, 2, bb, pb, nil)
	must(t, a.SetPeers([]Peer{b.peer("b", ipsB, addrB)}))
	must(t, b.SetPeers([]Peer{a.peer("a", ipsA, addrA)}))
	return a, b
}

// binds runs a test over memory and over real sockets.
func binds(t *testing.T, run func(t *testing.T, ba, bb conn.Bind, addrA, addrB string)) {
	t.Run("channel", func(t *testing.T) {
		n := newNetwork()
		run(t, n.bind("192.0.2.1:51820"), n.bind("192.0.2.2:51820"), "192.0.2.1:51820", "192.0.2.2:51820")
	})
	for _, offload := range []bool{true, false} {
		for name, host := range map[string]string{"udp4": "127.0.0.1", "udp6": "[::1]"} {
			if !offload {
				name += "-plain"
			}
			t.Run(name, func(t *testing.T) {
				run(t, newBind(offload), newBind(offload), host+":47811", host+":47812")
			})
		}
	}
}
