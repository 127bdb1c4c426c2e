package conntrack

import (
	"bytes"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/warrennet/warren/internal/packet"
)

const now = 1000

func openFile(t testing.TB, path string, capacity int, log *bytes.Buffer) *Table {
	t.Helper()
	handler := slog.DiscardHandler
	if log != nil {
		handler = slog.NewTextHandler(log, nil)
	}
	f, err := Open(Config{Path: path, Capacity: capacity, Now: now, Log: slog.New(handler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// kill leaves the file as a killed process does: not unmapped, but without the lock.
func (t *Table) kill(tb testing.TB) {
	tb.Helper()
	if err := t.file.lock.Close(); err != nil {
		tb.Fatal(err)
	}
	t.file.lock = nil
}

func newFlow(port uint16) *NewFlow {
	client := netip.AddrPortFrom(netip.MustParseAddr("10.42.1.5"), port)
	service, backend := netip.MustParseAddrPort("10.43.0.5:80"), netip.MustParseAddrPort("10.42.2.5:8080")
	return &NewFlow{Tuples: [2]Tuple{TupleOf(client, service), TupleOf(backend, client)}, Proto: packet.ProtoTCP, Now: now - 10}
}

func insert(t testing.TB, f *Table, port uint16) (slot uint32) {
	t.Helper()
	slot, result := f.Admit(0, now)
	if result != Admitted {
		t.Fatalf("admission %d", result)
	}
	if result := f.Insert(slot, newFlow(port)); result != Inserted {
		t.Fatalf("insertion %d", result)
	}
	return slot
}

func has(f *Table, port uint16) bool {
	k := Key{Tuple: newFlow(port).Tuples[Original], Proto: packet.ProtoTCP}
	_, _, ok := f.Peek(&k)
	return ok
}

func check(t testing.TB, f *Table) {
	t.Helper()
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
}

// A process was killed while it changed entries: the intact flows are restored, the other slots are free.
func TestOpen_ProcessKilled_DropsDamagedEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows")
	f := openFile(t, path, 32, nil)
	for port := range uint16(10) {
		insert(t, f, 4000+port)
	}
	for i := range f.slots {
		e := &f.slots[i]
		switch e.tuples[Original].SrcPort {
		case 4001: // torn
			e.tuples[Reply].DstPort++
		case 4002: // half unlinked
			e.status.Store(uint32(e.Status().with(stateEnding)))
		case 4003: // of a later time
			e.seen.Store(1 << 30)
		}
	}
	f.kill(t)
	var log bytes.Buffer
	f = openFile(t, path, 32, &log)
	if !strings.Contains(log.String(), "flows=7 dropped=2") {
		t.Error(log.String())
	}
	for port := range uint16(10) {
		if want := port < 1 || port > 3; has(f, 4000+port) != want {
			t.Errorf("flow %d restored: %v", port, !want)
		}
	}
	check(t, f)
	for port := range uint16(20) {
		if insert(t, f, 5000+port); f.Len() != 8+int(port) {
			t.Fatalf("%d slots in use after %d new flows", f.Len(), port+1)
		}
	}
	check(t, f)
}

// Flows survive any number of restarts, with more and with fewer slots.
func TestOpen_OtherCapacity_RestoresFlows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows")
	f := openFile(t, path, 64, nil)
	for port := range uint16(10) {
		insert(t, f, 4000+port)
	}
	if _, err := Open(Config{Path: path, Capacity: 64, Now: now, Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Fatal("two processes have one file")
	}
	for _, capacity := range []int{64, 64, 256, 32} {
		f.kill(t)
		if f = openFile(t, path, capacity, nil); f.Len() != 10 {
			t.Fatalf("%d flows restored into %d slots", f.Len(), capacity)
		}
		check(t, f)
	}
}

func TestOpen_UnusableFile_MovedAside(t *testing.T) {
	for name, spoil := range map[string]func(b []byte) []byte{
		"newer layout":     func(b []byte) []byte { b[8]++; return b },
		"no magic":         func(b []byte) []byte { b[0]++; return b },
		"wrong checksum":   func(b []byte) []byte { b[17]++; return b },
		"before a reboot":  func(b []byte) []byte { h := newHeader(64); h.boot[3]++; h.encode(b); return b },
		"one byte short":   func(b []byte) []byte { return b[:len(b)-1] },
		"empty":            func([]byte) []byte { return nil },
		"truncated header": func(b []byte) []byte { return b[:100] },
		"too many slots":   func(b []byte) []byte { newHeader(MaxCapacity).encode(b); return b },
		"directory":        nil,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "flows")
			if spoil == nil {
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			} else {
				openFile(t, path, 64, nil).Close()
				raw, _ := os.ReadFile(path)
				if err := os.WriteFile(path, spoil(raw), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			var log bytes.Buffer
			openFile(t, path, 64, &log)
			if _, err := os.Stat(path + ".aside"); err != nil || !strings.Contains(log.String(), "moved aside") {
				t.Fatal(err, log.String())
			}
			if st, err := os.Stat(path); err != nil || st.Mode() != fs.FileMode(0o600) {
				t.Fatal(st, err)
			}
		})
	}
}

// Whatever bytes are in the slots, the table that is restored from them is consistent and can be emptied.
func FuzzOpen(f *testing.F) {
	path := filepath.Join(f.TempDir(), "flows")
	first := openFile(f, path, 4, nil)
	insert(f, first, 1)
	f.Add(bytes.Clone(first.file.mem[headerSize:]))
	first.Close()
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "flows")
		mem := make([]byte, headerSize+4*int(entrySize))
		newHeader(4).encode(mem)
		copy(mem[headerSize:], raw)
		if err := os.WriteFile(path, mem, 0o600); err != nil {
			t.Fatal(err)
		}
		table := openFile(t, path, 4, nil)
		check(t, table)
		for port := range uint16(8) {
			if slot, result := table.Admit(0, now); result == Admitted && table.Insert(slot, newFlow(100+port)) != Inserted {
				table.Release(slot)
			}
		}
		check(t, table)
		table.Sweep(now + 1<<20)
		if table.Len() != 0 {
			t.Fatal(table.Len(), "slots in use after the last sweep")
		}
		table.Close()
	})
}
