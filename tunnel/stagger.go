package tunnel

import (
	"context"
	"time"
	"unsafe"

	"golang.zx2c4.com/wireguard/device"
)

// The engine keeps packets in buffers of 64 KB that all start at a multiple of 8 KB. A packet fills the first 1.5 KB
// only, so all packets in flight fall on the same few sets of the processor's caches and push each other out: of a
// second-level cache of 2 MB they can use 50 KB. Buffers that start at scattered places cure that. The engine
// makes its buffers itself, but it takes back any (PutMessageBuffer), so its stock is exchanged bit by bit while
// there is traffic. Dropped ones are garbage; the garbage collector thins out an idle stock as before.

const (
	pageMask = 8192 - 1
	// spread walks through the 128 cache lines of a Go page in steps that are coprime to them, a packet apart.
	spread = 64 * 27
	// exchange is how many buffers are looked at in one go; the engine's goroutines hold up to 3 x 128.
	exchange = 128
	pace     = 250 * time.Millisecond
)

// staggered makes the i-th buffer.
func staggered(i int) *[device.MaxMessageSize]byte {
	b := make([]byte, device.MaxMessageSize+pageMask+1)
	at := (1 + i) * spread & pageMask
	if at == 0 {
		at = 64
	}
	return (*[device.MaxMessageSize]byte)(b[at:])
}

func aligned(b *[device.MaxMessageSize]byte) bool { return uintptr(unsafe.Pointer(b))&pageMask == 0 }

// stagger exchanges the engine's buffers until ctx ends; it rests while nothing moves.
func stagger(ctx context.Context, engine *device.Device, moved func() uint64) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	held := make([]*[device.MaxMessageSize]byte, 0, exchange)
	var last uint64
	made := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := moved()
		if now-last < exchange {
			last = now
			continue
		}
		last = now
		for range exchange {
			held = append(held, engine.GetMessageBuffer())
		}
		for _, b := range held {
			if aligned(b) {
				b = staggered(made)
				made++
			}
			engine.PutMessageBuffer(b)
		}
		clear(held)
		held = held[:0]
	}
}
