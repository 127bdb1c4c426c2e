package tunnel

import (
	"github.com/warrennet/warren/internal/packet"
)

const (
	// maxBatch is how many packets the engine takes or gives in one call.
	maxBatch = 128
	// maxPacket is the largest IP packet.
	maxPacket = 65535
	// maxFrames bounds the super-packets that wait between queues: 64 of 64 KB.
	maxFrames = 64
)

// frame is the memory of one super-packet: the virtio header and the packet behind it.
type frame struct {
	pkt packet.Packet
	raw []byte
	ask bool      // a probe of the path: whatever its size, it goes as it is and must not be fragmented
	cut bool      // an IPv6 packet that was put together here: if it is too large, it goes in fragments again
	vec [1][]byte // for writing raw without an allocation
}

func newFrame() *frame { return &frame{raw: make([]byte, packet.VnetLen+maxPacket+1)} }

// room is where the packet goes.
func (f *frame) room() []byte { return f.raw[packet.VnetLen:] }

// parse reads what the kernel put into raw[:n]. Without virtio headers head is 0 and the packet still starts at
// room().
func (f *frame) parse(n int, vnet bool) packet.Fault {
	f.pkt.Vnet = packet.Vnet{}
	if !vnet {
		return f.pkt.Parse(f.room()[:n])
	}
	if n < packet.VnetLen {
		return packet.Short
	}
	f.pkt.Vnet.Decode(f.raw)
	if fault := f.pkt.Parse(f.raw[packet.VnetLen:n]); fault != packet.OK {
		return fault
	}
	return f.pkt.VnetFault()
}

// frames is the bounded stock of frames and the line of those that wait for the engine's reader.
type frames struct {
	free chan *frame
	line chan *frame
	made chan struct{} // one token per frame not yet made
}

func newFrames() *frames {
	f := &frames{free: make(chan *frame, maxFrames), line: make(chan *frame, maxFrames), made: make(chan struct{}, maxFrames)}
	for range maxFrames {
		f.made <- struct{}{}
	}
	return f
}

// get returns a frame or nil when all are in use.
func (f *frames) get() *frame {
	select {
	case b := <-f.free:
		return b
	default:
	}
	select {
	case b := <-f.free:
		return b
	case <-f.made:
		return newFrame()
	default:
		return nil
	}
}

// wait is get for a reader that may block; it returns nil when done is closed.
func (f *frames) wait(done <-chan struct{}) *frame {
	if b := f.get(); b != nil {
		return b
	}
	select {
	case b := <-f.free:
		return b
	case <-done:
		return nil
	}
}

func (f *frames) put(b *frame) {
	b.ask, b.cut = false, false
	f.free <- b
}
