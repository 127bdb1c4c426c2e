package ipam

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/atomicfile"
	"github.com/warrennet/warren/internal/model"
)

// compactAfter is how many events are appended before the journal is rewritten, in addition to twice the number of
// records. So the cost per event does not depend on the number of records.
const compactAfter = 2048

// limit is the number of events at which a journal with that many records is rewritten.
func limit(records int) int { return 2*records + compactAfter }

// journal is the append-only file of a pool: a header line, then one event per line, each with a checksum
// (journal_lines.go). It is rewritten by atomic replacement.
type journal struct {
	path    string
	boot    string
	f       *os.File
	size    int64 // of the valid part; data after it is an interrupted write
	events  int
	limit   int                         // number of events at which it is rewritten
	cursors map[model.Family]netip.Addr // the address assigned last
	broken  bool                        // a failed write may have left data after size: rewrite before the next event
}

// openJournal reads the file at path. It drops the records of another boot.
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
			return nil, nil, fmt.Errorf("copy damaged journal: %w", err)
		}
		state.problems = append(state.problems, "a copy of the damaged journal is in "+aside)
	}
	if state.boot != boot {
		clear(state.records)
	}
	if state.boot == boot && !state.damaged && len(data) > 0 {
		return j, state, j.resume(state)
	}
	return j, state, j.rewrite(values(state.records))
}

// resume continues after the last valid line and truncates the file there.
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

// append writes one event. A failed write is undone, so that no incomplete line precedes the next event.
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

// compact rewrites the journal when most of its events are outdated. live does not contain the event e that was just
// written. After a failure the old file remains in use.
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

// rewrite replaces the journal by one with these records only.
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
