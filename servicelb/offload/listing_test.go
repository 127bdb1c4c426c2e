package offload

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"

	"github.com/warrennet/warren/internal/model"
)

// The C in program.md and the assembler in program.go have the same labels, jumps and helper calls in the same order.
func TestProgram_Listing_SameControlFlow(t *testing.T) {
	text, err := os.ReadFile("program.md")
	if err != nil {
		t.Fatal(err)
	}
	_, c, _ := strings.Cut(string(text), "```c\n")
	c, _, _ = strings.Cut(c, "```")
	part := func(from, to string) []string {
		_, c, ok := strings.Cut(c, from)
		c, _, also := strings.Cut(c, to)
		if !ok || !also {
			t.Fatalf("program.md has no part from %q to %q", from, to)
		}
		return controlFlow(c)
	}
	want := part("{", "\nipv4:")
	for _, f := range []struct {
		family model.Family
		from   string
		to     string
	}{{model.IPv4, "goto pass;\n\n", "\nipv6:"}, {model.IPv6, "// continued at transport\n\n", "\n// transport"}} {
		want = append(want, part(f.from, f.to)...)
		for _, step := range part("\n// transport", "\npass:") {
			kind, name, _ := strings.Cut(step, " ")
			if kind != "call" && name != "pass" && name != "broken" {
				step += f.family.String()
			}
			want = append(want, step)
		}
	}
	want = append(want, part("return bpf_redirect_peer(value->link, 0);", "\n}")...)

	var got []string
	for _, i := range instructions(0, 0) {
		if s := i.Symbol(); s != "" {
			got = append(got, "label "+s)
		}
		switch {
		case i.IsBuiltinCall():
			got = append(got, "call "+helpers[asm.BuiltinFunc(i.Constant)])
		case i.OpCode.JumpOp() != asm.InvalidJumpOp && i.Reference() != "":
			got = append(got, "goto "+i.Reference())
		}
	}
	if !slices.Equal(got, want) {
		for i := range max(len(got), len(want)) {
			g, w := "(end)", "(end)"
			if i < len(got) {
				g = got[i]
			}
			if i < len(want) {
				w = want[i]
			}
			if g != w {
				t.Fatalf("step %d: program.go has %q, program.md has %q", i, g, w)
			}
		}
	}
}

var helpers = map[asm.BuiltinFunc]string{
	asm.FnMapLookupElem: "map_lookup_elem", asm.FnL4CsumReplace: "l4_csum_replace",
	asm.FnSkbStoreBytes: "skb_store_bytes", asm.FnRedirectPeer: "redirect_peer",
}

var flowRE = regexp.MustCompile(`(?m)^(\w+):|\bbpf_(\w+)\(|\bgoto (\w+);`)

// controlFlow lists the labels, helper calls and jumps of C.
func controlFlow(c string) (out []string) {
	c = regexp.MustCompile(`//.*`).ReplaceAllString(c, "")
	for _, m := range flowRE.FindAllStringSubmatch(c, -1) {
		for i, kind := range []string{"label", "call", "goto"} {
			if m[i+1] != "" {
				out = append(out, fmt.Sprintf("%s %s", kind, m[i+1]))
			}
		}
	}
	return out
}

// If this test fails, cilium/ebpf encodes atomic OR correctly: remove orAtomic, as its comment describes, and this test.
func TestOrAtomic_Library_StillEncodesAddition(t *testing.T) {
	library, ours := asm.OrAtomic.Mem(asm.R4, asm.R5, asm.Word, 0), orAtomic(asm.R4, asm.R5, 0)
	if library.Constant == ours.Constant {
		t.Errorf("asm.OrAtomic.Mem sets the operation %#x itself now", library.Constant)
	}
	if ours.Constant != 0x40 {
		t.Errorf("orAtomic encodes operation %#x, expected 0x40 (BPF_OR)", ours.Constant)
	}
}
