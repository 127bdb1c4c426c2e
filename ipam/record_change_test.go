package ipam

import (
	"maps"
	"testing"
)

func TestChange_Labels_KeepsKeyFieldsAndSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	p := openTest(t, dir, "b1", "10.42.7.0/28")
	r := reserve(t, p, 1)
	if _, err := p.Commit(r.Attachment, "m"); err != nil {
		t.Fatal(err)
	}
	got, err := p.Change(r.Attachment, func(r *Record) {
		r.Labels = map[string]string{"app": "web"}
		r.Addresses, r.Committed, r.HostIfName = nil, false, "other"
	})
	if err != nil || got.Labels["app"] != "web" || !got.Committed || len(got.Addresses) != 1 || got.Addresses[0] != r.Addresses[0] ||
		got.HostIfName != r.HostIfName {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := p.Change(at(9), func(*Record) {}); err == nil {
		t.Error("an attachment without a record was changed")
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	again, ok := openTest(t, dir, "b1", "10.42.7.0/28").Get(r.Attachment)
	if !ok || !maps.Equal(again.Labels, got.Labels) || !again.Committed {
		t.Errorf("after a restart: %+v", again)
	}
}
