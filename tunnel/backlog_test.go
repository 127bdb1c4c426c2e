package tunnel

import (
	"sync"
	"testing"
)

// What goes in and comes out again holds nobody up, whatever the order of the two sides.
func TestBacklogCarriesOn(t *testing.T) {
	b := newBacklog()
	const rounds = 5000
	inside := make(chan int, 2*enough/maxBatch)
	var sides sync.WaitGroup
	sides.Go(func() {
		for n := range inside {
			b.sub(n)
		}
	})
	var readers sync.WaitGroup
	for range 2 { // one for each address family
		readers.Go(func() {
			for range rounds {
				b.rest()
				b.add(maxBatch)
				inside <- maxBatch
			}
		})
	}
	readers.Wait()
	close(inside)
	sides.Wait()
	if len(b.wake) != 0 || b.resting.Load() {
		t.Errorf("nobody rests, yet resting is %v and %d wakes are left", b.resting.Load(), len(b.wake))
	}
}

// Packets that the engine drops are forgotten: reading goes on, and sooner each time.
func TestBacklogForgetsTheLost(t *testing.T) {
	b := newBacklog()
	for range 2 * hurry {
		b.add(enough + 1)
		b.rest()
		if held := b.held.Load(); held != 0 {
			t.Fatalf("%d packets are still held", held)
		}
	}
	if b.lost != hurry {
		t.Errorf("lost %d times in a row, want %d", b.lost, hurry)
	}
	b.add(enough + 1)
	woken := make(chan struct{})
	go func() { b.rest(); close(woken) }()
	for !b.resting.Load() && b.held.Load() != 0 { // or it has forgotten them already
	}
	b.sub(enough + 1)
	<-woken
}

// The engine's own packets come out without having gone in.
func TestBacklogIsNeverInDebt(t *testing.T) {
	b := newBacklog()
	b.sub(enough)
	b.rest()
	if held := b.held.Load(); held != 0 {
		t.Errorf("%d packets are held, want 0", held)
	}
	var none *backlog
	none.add(1)
	none.rest()
	none.sub(1)
}

func TestBacklogAllocatesNothing(t *testing.T) {
	b := newBacklog()
	if n := testing.AllocsPerRun(100, func() { b.add(enough + 1); b.rest(); b.add(enough); b.rest(); b.sub(enough) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
