package conntrack

import (
	"path/filepath"
	"testing"
)

// After a restart the sequence numbers of a flow are known as before, unless the offload has forwarded it meanwhile.
func TestOpen_Restarted_KeepsSequenceNumbersUnlessOffloaded(t *testing.T) {
	for _, capacity := range []int{32, 64} {
		path := filepath.Join(t.TempDir(), "flows")
		f := openFile(t, path, 32, nil)
		for i, port := range []uint16{4000, 4001} {
			e := f.At(insert(t, f, port))
			e.SetAck(Original, 5011)
			e.SetAck(Reply, 1011)
			e.sent[Reply].Store(5051)
			if i == 1 {
				e.MarkOffloaded()
			}
		}
		f.kill(t)
		f = openFile(t, path, capacity, nil)
		for slot := range f.EverUsed() {
			e := f.At(slot)
			want := [4]uint32{5011, 1011, 1011, 5051}
			if e.tuples[Original].SrcPort == 4001 {
				want = [4]uint32{}
			}
			if got := [4]uint32{e.Ack(Original), e.Ack(Reply), e.sent[Original].Load(), e.sent[Reply].Load()}; got != want {
				t.Errorf("capacity %d: flow %d has %v, expected %v", capacity, e.tuples[Original].SrcPort, got, want)
			}
			if e.Status()&bitOffloaded != 0 {
				t.Errorf("capacity %d: flow %d counts as offloaded by this process", capacity, e.tuples[Original].SrcPort)
			}
		}
	}
}

// A slot that an offloaded flow has had does not make the next flow an offloaded one.
func TestInsert_SlotOfOffloadedFlow_NotOffloaded(t *testing.T) {
	f := openFile(t, "", 1, nil)
	slot := insert(t, f, 4000)
	f.At(slot).MarkOffloaded()
	if !f.End(slot, f.At(slot).Status()) {
		t.Fatal("the flow did not end")
	}
	if e := f.At(insert(t, f, 4001)); e.Status()&bitOffloaded != 0 {
		t.Errorf("status %#x", uint32(e.Status()))
	}
}

// The counters are due before they overflow, and hold all that was counted.
func TestCount_LargestPackets_NothingLost(t *testing.T) {
	for _, size := range []int{40, 1500, 65575} {
		f := openFile(t, "", 1, nil)
		e := f.At(insert(t, f, 4000))
		e.TakeCounters(Original)
		packets, bytes := 0, 0
		for range 1000 {
			if e.Count(Reply, size) {
				p, n := e.TakeCounters(Reply)
				packets, bytes = packets+int(p), bytes+int(n)
			}
		}
		p, n := e.TakeCounters(Reply)
		if packets+int(p) != 1000 || bytes+int(n) != 1000*size {
			t.Errorf("size %d: %d packets with %d bytes", size, packets+int(p), bytes+int(n))
		}
	}
}
