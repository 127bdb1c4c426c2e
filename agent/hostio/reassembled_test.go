package hostio

import (
	"encoding/binary"
	"testing"

	"github.com/warrennet/warren/internal/hostnet"
	"golang.org/x/net/bpf"
)

func TestPassPorts_EveryPort_OnlyRedirectedPortsPass(t *testing.T) {
	vm, err := bpf.NewVM(append([]bpf.Instruction{bpf.LoadAbsolute{Off: 2, Size: 2}},
		passPorts([]hostnet.Ports{{Lo: 13000, Hi: 32767}, {Lo: 53, Hi: 53}, {Lo: 8081, Hi: 8081}})...))
	if err != nil {
		t.Fatal(err)
	}
	for port := range 65536 {
		b := binary.BigEndian.AppendUint16([]byte{0, 9}, uint16(port))
		n, err := vm.Run(b)
		if err != nil {
			t.Fatal(err)
		}
		if want := port == 53 || port == 8081 || port >= 13000 && port <= 32767; (n > 0) != want {
			t.Fatalf("port %d: %d bytes pass, expected any: %v", port, n, want)
		}
	}
}

func TestPassPorts_TooManyRanges_FitsKernelLimit(t *testing.T) {
	many := make([]hostnet.Ports, 60000)
	if _, err := bpf.Assemble(passPorts(many)); err != nil || len(passPorts(many)) > 4000 {
		t.Errorf("%d instructions: %v", len(passPorts(many)), err)
	}
}
