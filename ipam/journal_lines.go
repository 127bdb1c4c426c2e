package ipam

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// The journal is text, so that an operator can read it. A line is eight hexadecimal digits with the CRC-32C of the rest of
// the line, a space, JSON and a line feed. JSON contains no unescaped line feed, so a line feed always ends a line.

// journalVersion is the version of the layout that this program writes. A newer version is refused.
const journalVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first line.
type header struct {
	Version int          `json:"v"`
	Boot    string       `json:"boot"`
	Cursors []netip.Addr `json:"cursors,omitempty"` // address assigned last, one per family
}

// event is any other line: a new or changed record, or the attachment of a record that is deleted. Fresh is true for a
// record whose addresses were just assigned; it moves the cursors.
type event struct {
	Put   *Record         `json:"put,omitempty"`
	Fresh bool            `json:"fresh,omitempty"`
	Del   *api.Attachment `json:"del,omitempty"`
}

func (h header) line() ([]byte, error) { return checkedLine(h) }
func (e event) line() ([]byte, error)  { return checkedLine(e) }

func checkedLine(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	line := make([]byte, 0, len(raw)+10)
	line = fmt.Appendf(line, "%08x ", crc32.Checksum(raw, castagnoli))
	return append(append(line, raw...), '\n'), nil
}

// splitLine returns the JSON of a line; valid is false when the checksum does not match.
func splitLine(line []byte) (raw []byte, valid bool) {
	if len(line) < 9 || line[8] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	return line[9:], err == nil && uint32(sum) == crc32.Checksum(line[9:], castagnoli)
}

// journalState is the content of a journal.
type journalState struct {
	boot     string
	cursors  map[model.Family]netip.Addr
	records  map[api.Attachment]Record
	events   int
	good     int64 // bytes up to the end of the last valid line
	damaged  bool  // a line before the last valid one is invalid
	problems []string
}

// readJournal reads every valid line. Data after the last valid line is an interrupted write. An invalid line before a
// valid one is damage. Only a newer layout is an error.
func readJournal(data []byte) (*journalState, error) {
	s := &journalState{cursors: map[model.Family]netip.Addr{}, records: map[api.Attachment]Record{}}
	bad := 0 // number of the first invalid line since the last valid one, 0 for none
	pos := int64(0)
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		data, pos = rest, pos+int64(len(line))+1
		ok, err := whole, error(nil)
		if n == 1 {
			var newer error
			ok, newer = s.header(line, whole)
			if newer != nil {
				return nil, newer
			}
		} else if ok {
			ok, err = s.event(line)
		}
		switch {
		case !ok && bad == 0:
			bad = n
			if err != nil {
				s.problems = append(s.problems, fmt.Sprintf("line %d of the journal: %v", n, err))
			}
		case ok && bad != 0:
			s.damaged = true
			s.problems = append(s.problems, fmt.Sprintf("line %d of the journal is damaged", bad))
			bad = 0
		}
		if ok {
			s.good = pos
		}
	}
	if s.good == 0 && pos > 0 { // no line is valid
		s.damaged = true
		s.problems = append(s.problems, "the journal's header is damaged")
	}
	return s, nil
}

// header reads the first line. A newer version is refused even where the checksum does not match: the checksum of a newer
// layout may be another one.
func (s *journalState) header(line []byte, whole bool) (bool, error) {
	raw, valid := splitLine(line)
	var h header
	if json.Unmarshal(raw, &h) == nil && h.Version > journalVersion {
		return false, &model.ErrNewer{Have: h.Version, Know: journalVersion}
	}
	if !valid || !whole || h.Version < 1 {
		return false, nil
	}
	s.boot = h.Boot
	for _, a := range h.Cursors {
		if a.IsValid() {
			s.cursors[model.FamilyOf(a)] = a
		}
	}
	return true, nil
}

// event applies one line. err describes a line with a valid checksum and invalid content.
func (s *journalState) event(line []byte) (bool, error) {
	raw, valid := splitLine(line)
	if !valid {
		return false, nil
	}
	var e event
	if err := json.Unmarshal(raw, &e); err != nil {
		return false, err
	}
	switch {
	case e.Put != nil:
		if err := e.Put.check(); err != nil {
			return false, err
		}
		s.records[e.Put.Attachment] = *e.Put
		e.moveCursors(s.cursors)
	case e.Del != nil:
		delete(s.records, *e.Del)
	default:
		return false, errors.New("expected put or del, found neither")
	}
	s.events++
	return true, nil
}

// moveCursors records the addresses that were assigned last. Requested addresses do not count.
func (e event) moveCursors(cursors map[model.Family]netip.Addr) {
	if e.Put == nil || !e.Fresh {
		return
	}
	for _, a := range e.Put.Addresses {
		if !slices.Contains(e.Put.Requested, a) {
			cursors[model.FamilyOf(a)] = a
		}
	}
}

func sortedAddrs(m map[model.Family]netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range m {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
