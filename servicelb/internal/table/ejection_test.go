package table

import (
	"sync"
	"testing"
)

// Many goroutines change a record. No lost update keeps a backend ejected for good.
func TestRecord_ManyGoroutines_NeverEjectedForGood(t *testing.T) {
	r := new(Record)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range uint32(20000) {
				switch now := i + 1; (i + uint32(g)) % 3 {
				case 0:
					r.Fail(Failure{Limit: 3, Client: uint16(1 + i%5), Now: now}, false)
				case 1:
					r.admits(now)
				default:
					if i%7 == 0 {
						r.Succeed()
					}
				}
			}
		})
	}
	wg.Wait()
	if s := unpackRecord(r.packed.Load()); s.until > 20000+longestEjection+TrialTime || s.fails > 3 {
		t.Errorf("%+v", s)
	}
	if x := (recordState{1<<32 - 1, maxTimes, true, true, maxFails, maxClients}); unpackRecord(x.pack()) != x {
		t.Error("a recordState changes when it is packed")
	}
}
