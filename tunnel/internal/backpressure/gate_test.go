package backpressure

import (
	"sync"
	"testing"

	"github.com/warrennet/warren/tunnel/internal/limits"
)

// Packets that enter and leave again block no reader, whatever the order of Add, Wait and Done.
func TestGate_AddAndDoneConcurrently_NoReaderIsLeftWaiting(t *testing.T) {
	b := NewGate()
	const rounds = 5000
	inside := make(chan int, 2*highWatermark/limits.MaxBatch)
	var sides sync.WaitGroup
	sides.Go(func() {
		for n := range inside {
			b.Done(n)
		}
	})
	var readers sync.WaitGroup
	for range 2 { // one for each address family
		readers.Go(func() {
			for range rounds {
				b.Wait()
				b.Add(limits.MaxBatch)
				inside <- limits.MaxBatch
			}
		})
	}
	readers.Wait()
	close(inside)
	sides.Wait()
	if len(b.wake) != 0 || b.waiting.Load() {
		t.Errorf("no reader waits, but waiting is %v and %d wakes are left", b.waiting.Load(), len(b.wake))
	}
}

// Packets that the WireGuard device drops count as gone after a wait, which is shorter each time.
func TestGate_PacketsNeverLeave_WaitEndsSoonerEachTime(t *testing.T) {
	b := NewGate()
	for range 2 * maxHalvings {
		b.Add(highWatermark + 1)
		b.Wait()
		if inFlight := b.inFlight.Load(); inFlight != 0 {
			t.Fatalf("%d packets are still counted", inFlight)
		}
	}
	if b.timeouts != maxHalvings {
		t.Errorf("%d timeouts in a row, want %d", b.timeouts, maxHalvings)
	}
	b.Add(highWatermark + 1)
	woken := make(chan struct{})
	go func() { b.Wait(); close(woken) }()
	for !b.waiting.Load() && b.inFlight.Load() != 0 { // or the wait has timed out already
	}
	b.Done(highWatermark + 1)
	<-woken
}

// The WireGuard device's own packets leave it without having entered.
func TestGate_MoreDoneThanAdded_CountIsReset(t *testing.T) {
	b := NewGate()
	b.Done(highWatermark)
	b.Wait()
	if inFlight := b.inFlight.Load(); inFlight != 0 {
		t.Errorf("%d packets are counted, want 0", inFlight)
	}
	var none *Gate
	none.Add(1)
	none.Wait()
	none.Done(1)
}

func TestGate_WaitAddDone_AllocateNothing(t *testing.T) {
	b := NewGate()
	n := testing.AllocsPerRun(100, func() {
		b.Add(highWatermark + 1)
		b.Wait()
		b.Add(highWatermark)
		b.Wait()
		b.Done(highWatermark)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
