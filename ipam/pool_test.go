package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

var compareNetip = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func at(i int) api.Attachment {
	return api.Attachment{ContainerID: fmt.Sprintf("c%d", i), IfName: "eth0"}
}

func openTest(t *testing.T, dir, boot string, blocks ...string) *Pool {
	t.Helper()
	p, err := OpenPool(PoolConfig{Dir: dir, BootID: boot, Blocks: prefixes(blocks...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func reserve(t *testing.T, p *Pool, i int, requested ...string) Record {
	t.Helper()
	r, _, err := p.Reserve(Record{Attachment: at(i), Requested: addrs(requested...)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPool_ReleasedAddress_IsAssignedLast(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/29") // .3 .4 .5 .6 are for Pods
	for i, want := range []string{"10.42.7.3", "10.42.7.4"} {
		if got := reserve(t, p, i).Addresses[0].String(); got != want {
			t.Fatalf("Pod %d got %s, want %s", i, got, want)
		}
	}
	if _, ok, err := p.Release(at(0)); !ok || err != nil {
		t.Fatal(ok, err)
	}
	for i, want := range []string{"10.42.7.5", "10.42.7.6", "10.42.7.3"} {
		if got := reserve(t, p, 10+i).Addresses[0].String(); got != want {
			t.Fatalf("after a release: got %s, want %s", got, want)
		}
	}
	_, _, err := p.Reserve(Record{Attachment: at(99)})
	var full *FullError
	if !errors.As(err, &full) || full.Pods != 4 || !strings.Contains(err.Error(), "10.42.7.0/29") {
		t.Fatalf("full block: %v", err)
	}
}

func TestPool_TwoFamilies_AddressesInOrderOfBlocks(t *testing.T) {
	for _, blocks := range [][]string{{"10.42.7.0/24", "fd42::7:0/112"}, {"fd42:0:0:7::/64", "10.42.7.0/24"}} {
		t.Run(blocks[0], func(t *testing.T) {
			p := openTest(t, t.TempDir(), "b1", blocks...)
			r := reserve(t, p, 1)
			if len(r.Addresses) != 2 {
				t.Fatalf("addresses %v, want one per block %v", r.Addresses, blocks)
			}
			for i, a := range r.Addresses {
				if b := netip.MustParsePrefix(blocks[i]); !b.Contains(a) {
					t.Errorf("address %d is %s, want one of %s", i, a, b)
				}
			}
		})
	}
}

func TestPool_SeveralBlocks_AreUsedInTurn(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/29", "10.42.9.0/29")
	for i := range 8 {
		reserve(t, p, i)
	}
	if _, _, err := p.Reserve(Record{Attachment: at(9)}); err == nil {
		t.Fatal("a ninth address came out of two blocks of four")
	}
	if err := p.SetBlocks(prefixes("10.42.7.0/29", "10.42.9.0/29", "10.42.11.0/29")); err != nil {
		t.Fatal(err)
	}
	if got := reserve(t, p, 9).Addresses[0].String(); got != "10.42.11.3" {
		t.Fatalf("after the pool grew: %s", got)
	}
	p.Release(at(0))
	for range 3 {
		r := reserve(t, p, 20)
		p.Release(r.Attachment)
	}
	if got := reserve(t, p, 21).Addresses[0].String(); got != "10.42.7.3" {
		t.Fatalf("once round: %s", got)
	}
}

func TestReserve_RequestedAddress_IsAssignedOrRefused(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/24", "fd42:0:0:7::/64")
	reserve(t, p, 1, "10.42.7.77")
	for _, c := range []struct{ requested, want string }{
		{"10.42.7.77", "address 10.42.7.77 is held by container c1, interface eth0"},
		{"10.42.7.0", "is reserved in block 10.42.7.0/24"},
		{"10.42.7.1", "is reserved"},
		{"10.42.7.2", "is reserved"},
		{"10.42.7.255", "is reserved"},
		{"fd42:0:0:7::", "is reserved"},
		{"fd42:0:0:7::2", "is reserved"},
		{"10.42.8.5", "is in none of this node's blocks [10.42.7.0/24 fd42:0:0:7::/64]"},
	} {
		t.Run(c.requested, func(t *testing.T) {
			_, _, err := p.Reserve(Record{Attachment: at(2), Requested: addrs(c.requested)})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
	r := reserve(t, p, 3, "fd42:0:0:7:1:2:3:4") // outside of the part of the block that is assigned without request
	if r.Addresses[1].String() != "fd42::7:1:2:3:4" || r.Addresses[0].String() != "10.42.7.3" {
		t.Errorf("one requested, one chosen: %v", r.Addresses)
	}
	if _, _, err := p.Reserve(Record{Attachment: at(4), Requested: addrs("10.42.7.8", "10.42.7.9")}); err == nil {
		t.Error("two addresses of one family were assigned")
	}
}

func TestReserve_Repeated_ReturnsSameRecord(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/24")
	first := reserve(t, p, 1)
	again, isNew, err := p.Reserve(Record{Attachment: at(1), PodName: "other"})
	if err != nil || isNew || !cmp.Equal(first, again, compareNetip) {
		t.Fatalf("second reserve: %v isNew=%v %v", again, isNew, err)
	}
	if _, err := p.Commit(at(2), ""); err == nil {
		t.Fatal("committed what was never reserved")
	}
	if _, ok, err := p.Release(at(2)); ok || err != nil {
		t.Fatalf("release of nothing: %v %v", ok, err)
	}
}

func TestOpenPool_Reboot_DropsRecordsKeepsCursor(t *testing.T) {
	dir := t.TempDir()
	p := openTest(t, dir, "b1", "10.42.7.0/24")
	reserve(t, p, 1)
	reserve(t, p, 2)
	p.Commit(at(1), "02:00:00:00:00:01")
	want := p.Records()
	p.Close()

	same := openTest(t, dir, "b1", "10.42.7.0/24")
	if diff := cmp.Diff(want, same.Records(), compareNetip); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	same.Close()

	rebooted := openTest(t, dir, "b2", "10.42.7.0/24")
	if len(rebooted.Records()) != 0 {
		t.Errorf("after a reboot: %v", rebooted.Records())
	}
	if got := reserve(t, rebooted, 3).Addresses[0].String(); got != "10.42.7.5" {
		t.Errorf("after a reboot the cursor was lost: %s", got)
	}
}

func TestOpenPool_NewerLayout_IsRefused(t *testing.T) {
	dir := t.TempDir()
	line, _ := checkedLine(map[string]any{"v": 2, "boot": "b1", "unknown": "field"})
	os.WriteFile(filepath.Join(dir, JournalName), line, 0o600)
	_, err := OpenPool(PoolConfig{Dir: dir, BootID: "b1"})
	var newer *model.ErrNewer
	if !errors.As(err, &newer) || !strings.Contains(err.Error(), "upgrade warren") {
		t.Fatalf("newer layout: %v", err)
	}
}

func TestOpenPool_DamagedLine_KeepsOthersAndCopy(t *testing.T) {
	dir := t.TempDir()
	p := openTest(t, dir, "b1", "10.42.7.0/24")
	for i := range 3 {
		reserve(t, p, i)
	}
	p.Close()
	path := filepath.Join(dir, JournalName)
	data, _ := os.ReadFile(path)
	lines := strings.SplitAfter(string(data), "\n")
	lines[2] = strings.Replace(lines[2], "c1", "cX", 1)
	os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600)

	p = openTest(t, dir, "b1", "10.42.7.0/24")
	if n := len(p.Records()); n != 2 {
		t.Errorf("%d records around a damaged line, want 2", n)
	}
	if len(p.Problems()) == 0 {
		t.Error("damage was not reported")
	}
	if _, err := os.Stat(path + ".damaged"); err != nil {
		t.Error(err)
	}
}

func TestOpenPool_BlockTooSmall_IsRefused(t *testing.T) {
	for _, b := range []string{"10.42.7.0/30", "10.42.7.0/31", "10.42.7.0/32", "fd42::/127"} {
		t.Run(b, func(t *testing.T) {
			if _, err := OpenPool(PoolConfig{Dir: t.TempDir(), BootID: "b", Blocks: prefixes(b)}); err == nil ||
				!strings.Contains(err.Error(), b) {
				t.Errorf("error %v, want one that names the block", err)
			}
		})
	}
}

func BenchmarkPoolAddress(b *testing.B) {
	p, err := OpenPool(PoolConfig{Dir: b.TempDir(), BootID: "b1", Blocks: prefixes("10.42.7.0/24", "fd42:0:0:7::/64")})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	for i := range 250 {
		p.Reserve(Record{Attachment: at(-i - 1)})
	}
	for i := 0; b.Loop(); i++ {
		if _, _, err := p.Reserve(Record{Attachment: at(i), Netns: "/run/netns/x", PodName: "web", PodNamespace: "default"}); err != nil {
			b.Fatal(err)
		}
		if _, err := p.Commit(at(i), "02:00:00:00:00:01"); err != nil {
			b.Fatal(err)
		}
		if _, _, err := p.Release(at(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRoom_ReserveAndUnmanaged_CountFreeAddresses(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/29", "fd42:0:0:7::/64")
	room := func(f model.Family, free, largest, blocks int) {
		t.Helper()
		if got, l, b := p.Room(f); got != free || l != largest || b != blocks {
			t.Errorf("%s: %d free, largest %d, %d blocks; expected %d, %d, %d", f, got, l, b, free, largest, blocks)
		}
	}
	room(model.IPv4, 4, 4, 1)
	room(model.IPv6, 65533, 65533, 1)
	for i := range 4 {
		reserve(t, p, i)
	}
	room(model.IPv4, 0, 4, 1)
	room(model.IPv6, 65529, 65533, 1)
	if err := p.SetBlocks(prefixes("10.42.7.0/29", "fd42:0:0:7::/64", "10.42.9.0/24")); err != nil {
		t.Fatal(err)
	}
	room(model.IPv4, 252, 252, 2)
	if r := reserve(t, p, 4); r.Addresses[0].String() != "10.42.9.3" || !strings.HasPrefix(r.Addresses[1].String(), "fd42:0:0:7:") {
		t.Errorf("after SetBlocks with another block: %v", r.Addresses)
	}
	p.SetUnmanaged(addrs("10.42.9.9"))
	room(model.IPv4, 250, 252, 2)
}
