package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/atomicfile"
)

// compactAfter is how many events are added before the journal is rewritten; live records count on top, so the cost
// per event stays constant.
const compactAfter = 2048

func limit(live int) int { return 2*live + compactAfter }

// journal is the append-only file of a pool: a header line, then one event per line, each with a checksum in front
// (pool_lines.go). A rewritten journal is put in place by rename.
type journal struct {
	path    string
	boot    string
	f       *os.File
	size    int64 // of the good part; what follows is a torn write
	events  int
	limit   int                 // number of events at which it is rewritten
	cursors map[bool]netip.Addr // by family (true: IPv4): the address given out last
	broken  bool                // the file's end is unknown: rewrite before the next event
}

// openJournal reads the file at path; records of another boot are left behind.
func openJournal(path, boot string) (*journal, *journalState, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	state, err := readJournal(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	j := &journal{path: path, boot: boot, cursors: state.cursors}
	if state.damaged {
		aside := path + ".damaged"
		if err := os.WriteFile(aside, data, 0o600); err != nil {
			return nil, nil, fmt.Errorf("set the damaged journal aside: %w", err)
		}
		state.problems = append(state.problems, "the damaged journal was kept as "+aside)
	}
	if state.boot != boot {
		clear(state.records)
	}
	if state.boot == boot && !state.damaged && len(data) > 0 {
		return j, state, j.resume(state)
	}
	return j, state, j.rewrite(values(state.records))
}

// resume goes on behind the last good line and cuts off what a killed writer left there.
func (j *journal) resume(s *journalState) error {
	f, err := os.OpenFile(j.path, os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(s.good); err != nil {
		f.Close()
		return err
	}
	j.f, j.size, j.events, j.limit = f, s.good, s.events, limit(len(s.records))
	return nil
}

// append writes one event. A failed write is taken back, so that a full disk leaves no half line before a whole one.
func (j *journal) append(e event, live func() []Record) error {
	if j.f == nil {
		return os.ErrClosed
	}
	if j.broken {
		if err := j.rewrite(live()); err != nil {
			return err
		}
	}
	line, err := e.line()
	if err != nil {
		return err
	}
	if _, err := j.f.WriteAt(line, j.size); err != nil {
		j.broken = j.f.Truncate(j.size) != nil
		return err
	}
	j.size += int64(len(line))
	j.events++
	e.moveCursors(j.cursors)
	if j.events >= j.limit {
		j.compact(e, live())
	}
	return nil
}

// compact rewrites the journal when most of it is dead. The event just written is not in live yet. A failure is no
// harm: the old file goes on.
func (j *journal) compact(e event, live []Record) {
	kept := live[:0]
	for _, r := range live {
		if (e.Del == nil || r.Attachment != *e.Del) && (e.Put == nil || r.Attachment != e.Put.Attachment) {
			kept = append(kept, r)
		}
	}
	if e.Put != nil {
		kept = append(kept, *e.Put)
	}
	if j.rewrite(kept) != nil {
		j.limit = j.events + compactAfter
	}
}

// rewrite puts a journal in place that holds these records and nothing else.
func (j *journal) rewrite(live []Record) error {
	var b bytes.Buffer
	h, err := header{Version: journalVersion, Boot: j.boot, Cursors: sortedAddrs(j.cursors)}.line()
	if err != nil {
		return err
	}
	b.Write(h)
	for i := range live {
		line, err := event{Put: &live[i]}.line()
		if err != nil {
			return err
		}
		b.Write(line)
	}
	f, err := atomicfile.Create(j.path, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b.Bytes()); err != nil {
		return errors.Join(err, f.Discard())
	}
	if err := f.Commit(); err != nil {
		return err
	}
	if j.f != nil {
		j.f.Close()
	}
	j.f, j.size, j.events, j.limit, j.broken = f.File, int64(b.Len()), len(live), limit(len(live)), false
	return nil
}

func (j *journal) close() error {
	if j.f == nil {
		return nil
	}
	f := j.f
	j.f = nil
	return f.Close()
}

func values(m map[api.Attachment]Record) []Record {
	out := make([]Record, 0, len(m))
	for _, r := range m {
		out = append(out, r)
	}
	return out
}
