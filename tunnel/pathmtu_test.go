package tunnel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestPathSearch(t *testing.T) {
	for _, tc := range []struct {
		name    string
		p       path
		carries int
		want    int
		atMost  int // questions
	}{
		{"as promised", path{top: 1420, floor: 1280}, 1420, 0, 1},
		{"PPPoE", path{top: 1420, floor: 1280}, 1412, 1408, 6},
		{"another tunnel", path{top: 1420, floor: 1280}, 1340, 1328, 6},
		{"one byte less", path{top: 1420, floor: 1280}, 1419, 1408, 6},
		{"the least", path{top: 1420, floor: 1280}, 1280, 1280, 6},
		{"less than the least", path{top: 1420, floor: 1280}, 1000, 1280, 2},
		{"jumbo promised, Ethernet between", path{top: 8920, floor: 1280}, 1420, 1408, 12},
		{"known and still so", path{limit: 1328, top: 1420, floor: 1280}, 1340, 1328, 1},
		{"known and worse", path{limit: 1328, top: 1420, floor: 1280}, 1300, 1296, 5},
		{"known and all well again", path{limit: 1328, top: 1420, floor: 1280, raise: true}, 1420, 0, 2},
		{"known and somewhat better", path{limit: 1328, top: 1420, floor: 1280, raise: true}, 1400, 1392, 6},
		{"a limit above both ends' MTU", path{limit: 1400, top: 1360, floor: 1280}, 1360, 0, 1},
		{"IPv4 below 1280", path{top: 1420, floor: 576}, 700, 688, 9},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked := 0
			got, ok := tc.p.search(func(size int) outcome {
				asked++
				if size > tc.carries {
					return lost
				}
				return arrived
			})
			if got != tc.want || !ok || asked > tc.atMost {
				t.Errorf("found %d (ok %v) with %d questions, expected %d with at most %d", got, ok, asked, tc.want, tc.atMost)
			}
		})
	}
}

// A peer that falls silent at any moment leaves what was known.
func TestPathSearchSilence(t *testing.T) {
	for after := range 6 {
		asked := 0
		got, ok := path{limit: 1328, top: 1420, floor: 1280, raise: true}.search(func(size int) outcome {
			if asked++; asked > after {
				return silent
			}
			if size > 1400 {
				return lost
			}
			return arrived
		})
		if ok && asked > after || !ok && got != 1328 && got != 0 {
			t.Errorf("silent after %d questions: %d, ok %v", after, got, ok)
		}
	}
}

// Whatever the path, the result arrives, and nothing larger by two steps does.
func TestPathSearchProperty(t *testing.T) {
	for range 20000 {
		p := path{top: 1280 + rand.IntN(8000), floor: 1280, raise: rand.IntN(2) == 0}
		if rand.IntN(2) == 0 {
			p.limit = (1280 + rand.IntN(8000)) &^ 15
		}
		carries := 1280 + rand.IntN(8000)
		got, ok := p.search(func(size int) outcome {
			if size > carries {
				return lost
			}
			return arrived
		})
		size := got
		if got == 0 {
			size = p.top
		}
		what := fmt.Sprintf("%+v on a path of %d: %d", p, carries, got)
		switch {
		case !ok:
			t.Fatal(what, "not ok")
		case size > carries || size > p.top:
			t.Fatal(what, "does not arrive")
		case p.raise && size+2*sizeStep <= min(carries, p.top):
			t.Fatal(what, "is too small")
		}
	}
}
