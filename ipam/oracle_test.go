package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// oracle is a pool as one would explain it: with lists, without bit maps and cursor arithmetic.
type oracle struct {
	order map[model.Family][]netip.Addr // all addresses of a family for Pods, in the order of assignment
	last  map[model.Family]netip.Addr
	held  map[api.Attachment]Record
}

func newOracle(blocks []netip.Prefix) *oracle {
	o := &oracle{map[model.Family][]netip.Addr{}, map[model.Family]netip.Addr{}, map[api.Attachment]Record{}}
	for _, b := range blocks {
		var all []netip.Addr
		for a := b.Addr(); b.Contains(a); a = a.Next() {
			all = append(all, a)
		}
		if b.Addr().Is4() {
			all = all[:len(all)-1]
		}
		f := model.FamilyOf(b.Addr())
		o.order[f] = append(o.order[f], all[3:]...)
	}
	return o
}

func (o *oracle) taken(a netip.Addr) bool {
	for _, r := range o.held {
		if slices.Contains(r.Addresses, a) {
			return true
		}
	}
	return false
}

func (o *oracle) next(f model.Family) (netip.Addr, bool) {
	all := o.order[f]
	from := slices.Index(all, o.last[f]) + 1
	for i := range all {
		if a := all[(from+i)%len(all)]; !o.taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (o *oracle) reserve(k api.Attachment, requested netip.Addr) ([]netip.Addr, bool) {
	if r, ok := o.held[k]; ok {
		return r.Addresses, true
	}
	var out []netip.Addr
	for _, f := range model.Families {
		a, ok := o.next(f)
		if requested.IsValid() && model.FamilyOf(requested) == f {
			a, ok = requested, !o.taken(requested) && slices.Contains(o.order[f], requested)
		}
		if !ok {
			return nil, false
		}
		out = append(out, a)
	}
	r := Record{Attachment: k, Addresses: out}
	if requested.IsValid() {
		r.Requested = []netip.Addr{requested}
	}
	o.held[k] = r
	for _, a := range out {
		if a != requested {
			o.last[model.FamilyOf(a)] = a
		}
	}
	return out, true
}

func (o *oracle) records() []Record {
	out := []Record{}
	for _, r := range o.held {
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b Record) int { return cmpString(a.ContainerID, b.ContainerID) })
	return out
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (o *oracle) clone() *oracle {
	c := &oracle{o.order, map[model.Family]netip.Addr{}, map[api.Attachment]Record{}}
	for k, v := range o.last {
		c.last[k] = v
	}
	for k, v := range o.held {
		c.held[k] = v
	}
	return c
}

// Random calls, and kills at random bytes of a write. After a kill inside the last write the pool must have its state from
// before or from after that call.
func TestPool_RandomCallsAndKills_EqualsOracle(t *testing.T) {
	blocks := prefixes("10.42.7.0/28", "fd42::7:0/122", "10.42.9.0/29")
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 1))
			dir := t.TempDir()
			path := filepath.Join(dir, JournalName)
			open := func() *Pool {
				p, err := OpenPool(PoolConfig{Dir: dir, BootID: "b1", Blocks: blocks})
				if err != nil {
					t.Fatal(err)
				}
				return p
			}
			p, o := open(), newOracle(blocks)
			for step := range 1500 {
				before, size := o.clone(), fileSize(t, path)
				oneCall(t, rng, step, p, o)
				if rng.IntN(10) > 0 {
					continue
				}
				p.Close()
				if now := fileSize(t, path); now > size && rng.IntN(2) == 0 { // not after a compaction
					cut := size + rng.Int64N(now-size+1)
					if err := os.Truncate(path, cut); err != nil {
						t.Fatal(err)
					}
					if cut < now {
						o = before
					}
				}
				p = open()
				if len(p.Problems()) > 0 {
					t.Fatalf("step %d: an interrupted write is reported as damage: %v", step, p.Problems())
				}
				if diff := cmp.Diff(o.records(), p.Records(), compareNetip); diff != "" {
					t.Fatalf("step %d, after a kill (-oracle +pool):\n%s", step, diff)
				}
			}
			p.Close()
		})
	}
}

func oneCall(t *testing.T, rng *rand.Rand, step int, p *Pool, o *oracle) {
	t.Helper()
	k := at(rng.IntN(24))
	switch rng.IntN(5) {
	case 0, 1:
		var requested netip.Addr
		if rng.IntN(4) == 0 {
			requested = netip.AddrFrom4([4]byte{10, 42, 7, byte(rng.IntN(18))})
		}
		var req []netip.Addr
		if requested.IsValid() {
			req = []netip.Addr{requested}
		}
		want, ok := o.reserve(k, requested)
		got, _, err := p.Reserve(Record{Attachment: k, Requested: req})
		if ok != (err == nil) || (ok && !slices.Equal(want, got.Addresses)) {
			t.Fatalf("step %d: reserve %s with request %v: pool %v %v, oracle %v %v", step, Name(k), req, got.Addresses, err, want, ok)
		}
	case 2:
		r, ok := o.held[k]
		if _, err := p.Commit(k, "02:00:00:00:00:09"); (err == nil) != ok {
			t.Fatalf("step %d: commit: %v, oracle %v", step, err, ok)
		}
		if ok {
			r.Committed, r.MAC = true, "02:00:00:00:00:09"
			o.held[k] = r
		}
	default:
		_, held := o.held[k]
		if _, ok, err := p.Release(k); ok != held || err != nil {
			t.Fatalf("step %d: release: %v %v, oracle %v", step, ok, err, held)
		}
		delete(o.held, k)
	}
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}

// The size of the journal stays bounded: a node attaches and detaches Pods for years.
func TestPool_ManyEvents_CompactsJournal(t *testing.T) {
	dir := t.TempDir()
	p := openTest(t, dir, "b1", "10.42.7.0/24")
	for i := range 3 {
		reserve(t, p, -i-1)
	}
	for i := range 5 * compactAfter {
		reserve(t, p, i)
		if _, _, err := p.Release(at(i)); err != nil {
			t.Fatal(err)
		}
	}
	if size := fileSize(t, filepath.Join(dir, JournalName)); size > 3*compactAfter*200 {
		t.Errorf("the journal has grown to %d bytes with 3 records in it", size)
	}
	want := p.Records()
	last := p.journal.cursors[model.IPv4]
	p.Close()
	p = openTest(t, dir, "b1", "10.42.7.0/24")
	if diff := cmp.Diff(want, p.Records(), compareNetip); diff != "" {
		t.Error(diff)
	}
	if got := p.journal.cursors[model.IPv4]; got != last {
		t.Errorf("cursor %s after compaction and restart, want %s", got, last)
	}
}

func FuzzPoolJournal(f *testing.F) {
	h, _ := header{Version: 1, Boot: "b1", Cursors: addrs("10.42.7.9")}.line()
	put, _ := event{Put: &Record{Attachment: at(1), Addresses: addrs("10.42.7.3", "fd42::3"), HostIfName: "wrnx"}, Fresh: true}.line()
	k := at(1)
	del, _ := event{Del: &k}.line()
	f.Add(h, false)
	f.Add(append(append(slices.Clone(h), put...), del...), false)
	f.Add(append(append(slices.Clone(h), put[:20]...), put...), false)
	f.Add([]byte("00000000 {}\n"), false)
	f.Add([]byte("{\"v\":1}\n{\"put\":{\"containerID\":\"a\",\"ifName\":\"b\",\"addresses\":[\"1.2.3.4\"]}}\n{\"del\":{}}\n"), true)
	f.Fuzz(func(t *testing.T, data []byte, sign bool) {
		if sign { // the fuzzer does not find checksums
			var b []byte
			for line := range bytes.Lines(data) {
				b = append(fmt.Appendf(b, "%08x ", crc32.Checksum(bytes.TrimSuffix(line, []byte("\n")), castagnoli)), line...)
			}
			data = b
		}
		s, err := readJournal(data)
		if err != nil {
			return
		}
		if s.good < 0 || s.good > int64(len(data)) {
			t.Fatalf("good part of %d bytes in a journal of %d", s.good, len(data))
		}
		// What was read can be written, and reads the same.
		var b []byte
		line, err := header{Version: journalVersion, Boot: s.boot, Cursors: sortedAddrs(s.cursors)}.line()
		b = append(b, line...)
		for _, r := range s.records {
			more, e := event{Put: &r}.line()
			b, err = append(b, more...), errors.Join(err, e)
		}
		again, e := readJournal(b)
		if err != nil || e != nil || again.damaged || len(again.problems) > 0 {
			t.Fatalf("write what was read: %v; read it again: %v %v", err, e, again)
		}
		if diff := cmp.Diff([]any{s.boot, s.cursors, s.records}, []any{again.boot, again.cursors, again.records}, compareNetip,
			cmpopts.EquateEmpty(), cmpopts.EquateApproxTime(0)); diff != "" {
			t.Fatal(diff)
		}
	})
}
