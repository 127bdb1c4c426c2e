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
)

// oracle is the pool as one would explain it: lists, no bits, no cursor arithmetic.
type oracle struct {
	order map[bool][]netip.Addr // all addresses of a family that Pods may have, in the order they are given out
	last  map[bool]netip.Addr
	held  map[api.Attachment]Record
}

func newOracle(blocks []netip.Prefix) *oracle {
	o := &oracle{map[bool][]netip.Addr{}, map[bool]netip.Addr{}, map[api.Attachment]Record{}}
	for _, b := range blocks {
		var all []netip.Addr
		for a := b.Addr(); b.Contains(a); a = a.Next() {
			all = append(all, a)
		}
		if b.Addr().Is4() {
			all = all[:len(all)-1]
		}
		o.order[b.Addr().Is4()] = append(o.order[b.Addr().Is4()], all[3:]...)
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

func (o *oracle) next(v4 bool) (netip.Addr, bool) {
	all := o.order[v4]
	from := slices.Index(all, o.last[v4]) + 1
	for i := range all {
		if a := all[(from+i)%len(all)]; !o.taken(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (o *oracle) reserve(k api.Attachment, asked netip.Addr) ([]netip.Addr, bool) {
	if r, ok := o.held[k]; ok {
		return r.Addresses, true
	}
	var out []netip.Addr
	for _, v4 := range []bool{true, false} {
		a, ok := o.next(v4)
		if asked.IsValid() && asked.Is4() == v4 {
			a, ok = asked, !o.taken(asked) && slices.Contains(o.order[v4], asked)
		}
		if !ok {
			return nil, false
		}
		out = append(out, a)
	}
	r := Record{Attachment: k, Addresses: out}
	if asked.IsValid() {
		r.Requested = []netip.Addr{asked}
	}
	o.held[k] = r
	for _, a := range out {
		if a != asked {
			o.last[a.Is4()] = a
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
	c := &oracle{o.order, map[bool]netip.Addr{}, map[api.Attachment]Record{}}
	for k, v := range o.last {
		c.last[k] = v
	}
	for k, v := range o.held {
		c.held[k] = v
	}
	return c
}

// TestPoolAgainstOracle does random calls and kills the pool at random bytes of its writes. After a kill inside the
// last write the pool must be where it was before or after that call, never anywhere else.
func TestPoolAgainstOracle(t *testing.T) {
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
				if now := fileSize(t, path); now > size && rng.IntN(2) == 0 { // not where it was just compacted
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
					t.Fatalf("step %d: a torn tail counts as damage: %v", step, p.Problems())
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
		var asked netip.Addr
		if rng.IntN(4) == 0 {
			asked = netip.AddrFrom4([4]byte{10, 42, 7, byte(rng.IntN(18))})
		}
		var req []netip.Addr
		if asked.IsValid() {
			req = []netip.Addr{asked}
		}
		want, ok := o.reserve(k, asked)
		got, _, err := p.Reserve(Record{Attachment: k, Requested: req})
		if ok != (err == nil) || (ok && !slices.Equal(want, got.Addresses)) {
			t.Fatalf("step %d: reserve %s asking for %v: pool %v %v, oracle %v %v", step, Name(k), req, got.Addresses, err, want, ok)
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

// TestPoolCompacts holds the file's size: a node that plugs and unplugs for years must not fill its disk.
func TestPoolCompacts(t *testing.T) {
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
	last := p.journal.cursors[true]
	p.Close()
	p = openTest(t, dir, "b1", "10.42.7.0/24")
	if diff := cmp.Diff(want, p.Records(), compareNetip); diff != "" {
		t.Error(diff)
	}
	if got := p.journal.cursors[true]; got != last {
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
		if sign { // the fuzzer does not guess checksums
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
