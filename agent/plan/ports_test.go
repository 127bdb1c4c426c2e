package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
)

// listenersAt are listeners of root, in the order of their age.
func listenersAt(ports ...uint16) (out []Listener) {
	for i, n := range ports {
		out = append(out, Listener{Port: n, Since: uint64(i)})
	}
	return out
}

func TestReservedFor_Listeners_ReservesMasqueradePorts(t *testing.T) {
	if got := reservedFor(listenersAt(80, 13000, 15021, 29999, 30000)); !slices.Equal(got, []uint16{13000, 15021, 29999}) {
		t.Errorf("reserved %v", got)
	}
}

// A process without root listens on as many ports as are reserved, lower than those of the host's services.
func TestReservedFor_ManyListenersOfAnotherUser_IncumbentsReserved(t *testing.T) {
	var abusive []Listener
	for n := range uint16(100) {
		abusive = append(abusive, Listener{Port: 13000 + n, UID: 65534, Inode: 500 + uint64(n), Since: 10 + uint64(n)})
	}
	for name, incumbent := range map[string]Listener{
		"root, started later":       {Port: 20000, UID: 0, Inode: 900, Since: 900},
		"another user, before it":   {Port: 20000, UID: 1000, Inode: 900, Since: 9},
		"the same age, lower inode": {Port: 20000, UID: 1000, Inode: 499, Since: 10},
	} {
		t.Run(name, func(t *testing.T) {
			got := reservedFor(append(slices.Clone(abusive), incumbent))
			if len(got) != maxReservedPorts || !slices.Contains(got, incumbent.Port) || !slices.IsSorted(got) {
				t.Errorf("reserved %v, expected %d ports in ascending order, %d among them", got, maxReservedPorts, incumbent.Port)
			}
		})
	}
	in := testInput()
	in.Listeners = append(abusive, Listener{Port: 20000, Since: 900})
	p := mustMake(t, in)
	want := "host programs are unreachable from outside of the node at port 13015 (uid 65534)"
	if !slices.ContainsFunc(p.Problems, func(s string) bool { return strings.HasPrefix(s, want) && strings.Contains(s, "and 80 more") }) {
		t.Errorf("problems %q, expected one that begins with %q", p.Problems, want)
	}
}

func TestExcept_Ports_CutsTheRange(t *testing.T) {
	for _, tc := range []struct {
		ports []uint16
		want  []hostnet.Ports
	}{
		{nil, []hostnet.Ports{{Lo: 10, Hi: 20}}},
		{[]uint16{15}, []hostnet.Ports{{Lo: 10, Hi: 14}, {Lo: 16, Hi: 20}}},
		{[]uint16{10, 11, 20}, []hostnet.Ports{{Lo: 12, Hi: 19}}},
		{[]uint16{10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}, nil},
	} {
		t.Run(fmt.Sprint(tc.ports), func(t *testing.T) {
			if got := except([2]uint16{10, 20}, tc.ports); !slices.Equal(got, tc.want) {
				t.Errorf("%v, expected %v", got, tc.want)
			}
		})
	}
}

func TestMake_HostListeners_DividesReservedAndUnreachable(t *testing.T) {
	in := testInput()
	in.Listeners = listenersAt(13000, 30001)
	p := mustMake(t, in)
	if !slices.Equal(p.ReservedPorts, []uint16{13000}) || !slices.Equal(p.UnreachablePorts, []uint16{30001}) {
		t.Errorf("reserved %v, unreachable %v", p.ReservedPorts, p.UnreachablePorts)
	}
}
