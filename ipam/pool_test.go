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

func reserve(t *testing.T, p *Pool, i int, asked ...string) Record {
	t.Helper()
	r, _, err := p.Reserve(Record{Attachment: at(i), Requested: addrs(asked...)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestPoolGoesRound(t *testing.T) {
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

func TestPoolTwoFamiliesInOrder(t *testing.T) {
	for _, blocks := range [][]string{{"10.42.7.0/24", "fd42::7:0/112"}, {"fd42:0:0:7::/64", "10.42.7.0/24"}} {
		p := openTest(t, t.TempDir(), "b1", blocks...)
		r := reserve(t, p, 1)
		if len(r.Addresses) != 2 {
			t.Fatalf("%v: %v", blocks, r.Addresses)
		}
		for i, a := range r.Addresses {
			if b := netip.MustParsePrefix(blocks[i]); !b.Contains(a) {
				t.Errorf("address %d is %s, want one of %s", i, a, b)
			}
		}
	}
}

func TestPoolSeveralBlocks(t *testing.T) {
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

func TestPoolRefusesRequests(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/24", "fd42:0:0:7::/64")
	reserve(t, p, 1, "10.42.7.77")
	for _, c := range []struct{ asked, want string }{
		{"10.42.7.77", "address 10.42.7.77 is held by container c1, interface eth0"},
		{"10.42.7.0", "is reserved in block 10.42.7.0/24"},
		{"10.42.7.1", "is reserved"},
		{"10.42.7.2", "is reserved"},
		{"10.42.7.255", "is reserved"},
		{"fd42:0:0:7::", "is reserved"},
		{"fd42:0:0:7::2", "is reserved"},
		{"10.42.8.5", "is in none of this node's blocks [10.42.7.0/24 fd42:0:0:7::/64]"},
	} {
		_, _, err := p.Reserve(Record{Attachment: at(2), Requested: addrs(c.asked)})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.asked, err, c.want)
		}
	}
	r := reserve(t, p, 3, "fd42:0:0:7:1:2:3:4") // beyond the span that fresh addresses come from
	if r.Addresses[1].String() != "fd42::7:1:2:3:4" || r.Addresses[0].String() != "10.42.7.3" {
		t.Errorf("one asked for, one chosen: %v", r.Addresses)
	}
	if _, _, err := p.Reserve(Record{Attachment: at(4), Requested: addrs("10.42.7.8", "10.42.7.9")}); err == nil {
		t.Error("two addresses of one family were given")
	}
}

func TestPoolIsIdempotent(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/24")
	first := reserve(t, p, 1)
	again, fresh, err := p.Reserve(Record{Attachment: at(1), PodName: "other"})
	if err != nil || fresh || !cmp.Equal(first, again, compareNetip) {
		t.Fatalf("second reserve: %v fresh=%v %v", again, fresh, err)
	}
	if _, err := p.Commit(at(2), ""); err == nil {
		t.Fatal("committed what was never reserved")
	}
	if _, ok, err := p.Release(at(2)); ok || err != nil {
		t.Fatalf("release of nothing: %v %v", ok, err)
	}
}

func TestPoolSurvivesAndForgets(t *testing.T) {
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

func TestPoolRefusesNewerLayout(t *testing.T) {
	dir := t.TempDir()
	line, _ := checkedLine(map[string]any{"v": 2, "boot": "b1", "what": "ever"})
	os.WriteFile(filepath.Join(dir, JournalName), line, 0o600)
	_, err := OpenPool(PoolConfig{Dir: dir, BootID: "b1"})
	var newer *model.ErrNewer
	if !errors.As(err, &newer) || !strings.Contains(err.Error(), "upgrade warren") {
		t.Fatalf("newer layout: %v", err)
	}
}

func TestPoolSetsDamageAside(t *testing.T) {
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

func TestPoolTooSmallBlocks(t *testing.T) {
	for _, b := range []string{"10.42.7.0/30", "10.42.7.0/31", "10.42.7.0/32", "fd42::/127"} {
		if _, err := OpenPool(PoolConfig{Dir: t.TempDir(), BootID: "b", Blocks: prefixes(b)}); err == nil {
			t.Errorf("block %s was taken", b)
		}
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

func TestPoolRoom(t *testing.T) {
	p := openTest(t, t.TempDir(), "b1", "10.42.7.0/29", "fd42:0:0:7::/64")
	room := func(v4 bool, free, largest, blocks int) {
		t.Helper()
		if f, l, b := p.Room(v4); f != free || l != largest || b != blocks {
			t.Errorf("room (IPv4 %v): %d free, largest %d, %d blocks; expected %d, %d, %d", v4, f, l, b, free, largest, blocks)
		}
	}
	room(true, 4, 4, 1)
	room(false, 65533, 65533, 1)
	for i := range 4 {
		reserve(t, p, i)
	}
	room(true, 0, 4, 1)
	room(false, 65529, 65533, 1)
	if err := p.SetBlocks(prefixes("10.42.7.0/29", "fd42:0:0:7::/64", "10.42.9.0/24")); err != nil {
		t.Fatal(err)
	}
	room(true, 252, 252, 2)
	if r := reserve(t, p, 4); r.Addresses[0].String() != "10.42.9.3" || !strings.HasPrefix(r.Addresses[1].String(), "fd42:0:0:7:") {
		t.Errorf("after another block came: %v", r.Addresses)
	}
	p.SetStrangers(addrs("10.42.9.9"))
	room(true, 250, 252, 2)
}
