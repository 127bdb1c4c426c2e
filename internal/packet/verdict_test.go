package packet

import "testing"

func TestVerdict_String_NamesEachVerdict(t *testing.T) {
	for v, want := range map[Verdict]string{
		VerdictPeer: "peer", VerdictReflect: "reflect", VerdictDrop: "drop", VerdictReply: "reply", VerdictReply + 1: "unknown",
	} {
		t.Run(want, func(t *testing.T) {
			if got := v.String(); got != want {
				t.Errorf("verdict %d is named %q, want %q", v, got, want)
			}
		})
	}
}
