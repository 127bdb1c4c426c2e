package tunnel

import (
	"bytes"
	"log/slog"
	"os"
	"sync"

	"github.com/warrennet/warren/internal/packet"
	"golang.org/x/sys/unix"
)

var quietLog = slog.New(slog.DiscardHandler)

// fakeKernel keeps the rules of a Linux TUN that matter here: queues deliver in order, read says EAGAIN, an offload
// that was refused stays refused, a super-packet of a kind it does not know is EINVAL, and a device that is down
// answers EIO.
type fakeKernel struct {
	mu       sync.Mutex
	queues   []*fakeQueue
	mtuSet   int
	up       bool
	noVnet   bool
	refuse   int   // TUNSETOFFLOAD bits answered with EINVAL
	refuseTo error // error for super-packets written; nil: accepted
	onlyKind uint8 // with refuseTo: this GSO type only, 0 all
}

func (k *fakeKernel) attach(name string, vnet bool) (queue, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if vnet && k.noVnet {
		return nil, unix.EINVAL
	}
	q := &fakeQueue{k: k, in: make(chan []byte, 1024), woken: make(chan struct{}, 1), gone: make(chan struct{})}
	k.queues = append(k.queues, q)
	return q, nil
}

func (k *fakeKernel) setMTU(_ string, mtu int) error { k.mtuSet = mtu; return nil }
func (k *fakeKernel) mtu(string) (int, error)        { return k.mtuSet, nil }
func (k *fakeKernel) setUp(string) error             { k.up = true; return nil }

type fakeQueue struct {
	k       *fakeKernel
	in      chan []byte // virtio header + packet
	woken   chan struct{}
	gone    chan struct{}
	once    sync.Once
	offload int
	persist bool
	vnetLen int

	mu   sync.Mutex
	next error // of the next read
	out  [][]byte
}

func (q *fakeQueue) setVnetLen(n int) error   { q.vnetLen = n; return nil }
func (q *fakeQueue) setPersist(on bool) error { q.persist = on; return nil }
func (q *fakeQueue) setOffload(flags int) error {
	if q.k != nil && flags&q.k.refuse != 0 {
		return unix.EINVAL
	}
	q.offload = flags
	return nil
}

func (q *fakeQueue) read(b []byte, wait bool) (int, error) {
	q.mu.Lock()
	err := q.next
	q.next = nil
	q.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if !wait {
		select {
		case p := <-q.in:
			return copy(b, p), nil
		default:
			return 0, errAgain
		}
	}
	select {
	case p := <-q.in:
		return copy(b, p), nil
	case <-q.woken:
		return 0, errWoken
	case <-q.gone:
		return 0, os.ErrClosed
	}
}

func (q *fakeQueue) wake() {
	select {
	case q.woken <- struct{}{}:
	default:
	}
}

func (q *fakeQueue) write(v [][]byte) error {
	whole := bytes.Join(v, nil)
	if q.k != nil {
		var h packet.Vnet
		h.Decode(whole)
		kind := h.GSOType &^ packet.GSOECN
		if kind != packet.GSONone && q.k.refuseTo != nil && (q.k.onlyKind == 0 || q.k.onlyKind == kind) {
			return q.k.refuseTo
		}
		if !q.k.up {
			return unix.EIO
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.out = append(q.out, whole)
	return nil
}

func (q *fakeQueue) close() error { q.once.Do(func() { close(q.gone) }); return nil }

// taken returns and forgets what was written.
func (q *fakeQueue) taken() [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.out
	q.out = nil
	return out
}

// feed puts a packet where the kernel would.
func (q *fakeQueue) feed(v packet.Vnet, b []byte) {
	raw := make([]byte, packet.VnetLen, packet.VnetLen+len(b))
	v.Encode(raw)
	q.in <- append(raw, b...)
}
