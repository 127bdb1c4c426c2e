package disk

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/model"
)

func TestIdentity_SecondCall_ReturnsTheSame(t *testing.T) {
	d := Dir(filepath.Join(t.TempDir(), "state"))
	first, err := d.Identity("n1")
	if err != nil || len(first) != 32 {
		t.Fatalf("%q %v", first, err)
	}
	if again, err := d.Identity("n1"); err != nil || again != first {
		t.Errorf("second time %q %v, expected %q", again, err, first)
	}
	if _, err := d.Identity("n2"); err == nil || !strings.Contains(err.Error(), `belongs to node "n1"`) {
		t.Errorf("a disk copied to another node: %v", err)
	}
	if fi, err := os.Stat(d.path("identity.json")); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v, expected 0600", fi.Mode(), err)
	}
	other, _ := Dir(t.TempDir()).Identity("n1")
	if other == first {
		t.Error("two disks have one identity")
	}
}

func TestSnapshot_StoredAndRead_IsEqual(t *testing.T) {
	d := Dir(t.TempDir())
	if s, err := d.Snapshot(); s != nil || err != nil {
		t.Errorf("an empty disk has %v %v", s, err)
	}
	want := &model.Snapshot{Revision: 7, Cluster: model.Cluster{Name: "c", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}},
		Nodes: []model.Node{{Name: "n1", Identity: "i", PublicKey: model.Key{1},
			Endpoints: []netip.AddrPort{netip.MustParseAddrPort("[2001:db8::1]:51820")}, MTU: 1420}},
		Blocks: []model.Block{{CIDR: netip.MustParsePrefix("fd42::/64"), Node: "n1", Identity: "i"}},
		Services: []model.Service{{ObjectName: model.ObjectName{Namespace: "a", Name: "b"},
			ClusterIPs: []netip.Addr{netip.MustParseAddr("10.43.0.1")}, Ports: []model.ServicePort{{Protocol: model.UDP, Port: 53}}}}}
	if err := d.SetSnapshot(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.AddrPort{}, netip.Addr{})); diff != "" {
		t.Errorf("snapshot (-want +got):\n%s", diff)
	}
	blocks := []netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}
	if err := d.SetBlocks(blocks); err != nil {
		t.Fatal(err)
	}
	if got, err := d.Blocks(); err != nil || len(got) != 1 || got[0] != blocks[0] {
		t.Errorf("blocks %v %v", got, err)
	}
}

func TestBlocks_InvalidFile_ErrorNamesTheFile(t *testing.T) {
	for _, content := range []string{"", "garbage", "{}", `{"v":0,"value":[]}`, `{"v":1,"value":"x"}`, `{"v":9,"value":[]}`} {
		d := Dir(t.TempDir())
		if err := os.WriteFile(d.path("blocks.json"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := d.Blocks()
		if err == nil || !strings.Contains(err.Error(), "blocks.json") {
			t.Errorf("%q: error %v, expected one that names the file", content, err)
		}
		var newer *model.ErrNewer
		if strings.Contains(content, "9") != errors.As(err, &newer) {
			t.Errorf("%q: %v, only a newer layout is ErrNewer", content, err)
		}
	}
}

// A disk that is full or read-only is an error; the old content stays.
func TestSetBlocks_WriteFails_KeepsTheOldFile(t *testing.T) {
	d := Dir(t.TempDir())
	if err := d.SetBlocks([]netip.Prefix{netip.MustParsePrefix("10.42.3.0/24")}); err != nil {
		t.Fatal(err)
	}
	gone := Dir(filepath.Join(string(d), "nosuch"))
	if err := gone.SetBlocks(nil); err == nil {
		t.Error("a write into a missing directory succeeded")
	}
	if got, err := d.Blocks(); err != nil || len(got) != 1 {
		t.Errorf("%v %v", got, err)
	}
	if files, _ := os.ReadDir(string(d)); len(files) != 1 {
		t.Errorf("temporary files are left: %v", files)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"v":1,"value":{"revision":1}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d := Dir(t.TempDir())
		for _, name := range []string{"blocks.json", "snapshot.json", "identity.json"} {
			if err := os.WriteFile(d.path(name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, _ = d.Blocks()
		_, _ = d.Snapshot()
		_, _ = d.Identity("n") // none may panic
	})
}
