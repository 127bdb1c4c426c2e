package plan

import (
	"fmt"
	"slices"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
)

func TestReservedFor_Listeners_ReservesMasqueradePorts(t *testing.T) {
	if got := reservedFor([]uint16{80, 13000, 15021, 29999, 30000}); !slices.Equal(got, []uint16{13000, 15021, 29999}) {
		t.Errorf("reserved %v", got)
	}
	var many []uint16
	for n := range uint16(100) {
		many = append(many, 14000+2*n)
	}
	if got := reservedFor(many); len(got) != maxReservedPorts {
		t.Errorf("%d ports reserved, expected at most %d", len(got), maxReservedPorts)
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
	in.Listeners = []uint16{13000, 30001}
	p := mustMake(t, in)
	if !slices.Equal(p.ReservedPorts, []uint16{13000}) || !slices.Equal(p.UnreachablePorts, []uint16{30001}) {
		t.Errorf("reserved %v, unreachable %v", p.ReservedPorts, p.UnreachablePorts)
	}
}
