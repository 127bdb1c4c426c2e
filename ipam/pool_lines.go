package ipam

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"strconv"

	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/model"
)

// The journal is text, for people who look into it: eight hex digits of CRC-32C over the rest of the line, a space,
// JSON, a line feed. JSON has no raw line feed, so a line is whole or it is not.

// journalVersion is the layout this program writes. A newer one is refused.
const journalVersion = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is the first line.
type header struct {
	Version int          `json:"v"`
	Boot    string       `json:"boot"`
	Cursors []netip.Addr `json:"cursors,omitempty"` // addresses given out last, one per family
}

// event is any other line: a record that holds from now on, or an attachment whose record ends. Fresh tells a record
// whose addresses were just given out from one that is only written again; it moves the cursors.
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

// unchecked splits a line; sound is false when the checksum does not fit.
func unchecked(line []byte) (raw []byte, sound bool) {
	if len(line) < 9 || line[8] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	return line[9:], err == nil && uint32(sum) == crc32.Checksum(line[9:], castagnoli)
}

// journalState is what a journal says.
type journalState struct {
	boot     string
	cursors  map[bool]netip.Addr
	records  map[api.Attachment]Record
	events   int
	good     int64 // bytes up to the end of the last sound line
	damaged  bool  // more than a torn tail is wrong
	problems []string
}

// readJournal takes up every sound line. What is behind the last sound line is a torn write and no damage; a bad line
// before a sound one is. Only a newer layout is an error.
func readJournal(data []byte) (*journalState, error) {
	s := &journalState{cursors: map[bool]netip.Addr{}, records: map[api.Attachment]Record{}}
	bad := 0 // line number of the first bad line that waits for a verdict
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
	if s.good == 0 && pos > 0 { // not even the header was sound
		s.damaged = true
		s.problems = append(s.problems, "the journal's header is damaged")
	}
	return s, nil
}

// header reads the first line. A version is believed even where the checksum is wrong: refusing is the safe side.
func (s *journalState) header(line []byte, whole bool) (bool, error) {
	raw, sound := unchecked(line)
	var h header
	if json.Unmarshal(raw, &h) == nil && h.Version > journalVersion {
		return false, &model.ErrNewer{Have: h.Version, Know: journalVersion}
	}
	if !sound || !whole || h.Version < 1 {
		return false, nil
	}
	s.boot = h.Boot
	for _, a := range h.Cursors {
		if a.IsValid() {
			s.cursors[a.Is4()] = a
		}
	}
	return true, nil
}

// event applies one line; an error explains a line that is sound but senseless.
func (s *journalState) event(line []byte) (bool, error) {
	raw, sound := unchecked(line)
	if !sound {
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
		return false, fmt.Errorf("neither put nor del")
	}
	s.events++
	return true, nil
}

// moveCursors makes fresh addresses the ones given out last, but not those that were asked for.
func (e event) moveCursors(cursors map[bool]netip.Addr) {
	if e.Put == nil || !e.Fresh {
		return
	}
	for _, a := range e.Put.Addresses {
		if !slices.Contains(e.Put.Requested, a) {
			cursors[a.Is4()] = a
		}
	}
}

func sortedAddrs(m map[bool]netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range m {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}
