package apply

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/warrennet/warren/agent/plan"
	"github.com/warrennet/warren/agent/snapshot"
	"github.com/warrennet/warren/internal/hostnet"
	"github.com/warrennet/warren/internal/model"
	"github.com/warrennet/warren/internal/store/disk"
)

// An apply that ends before a plan exists has applied nothing: the change that woke it still waits, and the time until it is
// applied counts from its arrival.
func TestApply_EndsWithoutAPlan_KeepsTheArrival(t *testing.T) {
	for name, observe := range map[string]func([]netip.Prefix) (hostnet.Underlay, error){
		"the host cannot be read": func([]netip.Prefix) (hostnet.Underlay, error) { return hostnet.Underlay{}, errors.New("no netlink") },
		"other networks before the first snapshot": func([]netip.Prefix) (hostnet.Underlay, error) {
			return hostnet.Underlay{UnmanagedRemote: []netip.Prefix{netip.MustParsePrefix("10.42.9.0/24")}}, nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := slog.New(slog.DiscardHandler)
			source, err := snapshot.New(snapshot.Config{Disk: disk.Dir(t.TempDir()), Changed: func() {}, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			l := New(Config{Self: func() plan.Self { return plan.Self{} }, Source: source, Log: log,
				Pods: func() map[model.ObjectName]model.Pod { return nil }, Attachments: func() []plan.Pod { return nil }})
			x := newApplier(l, DataPath{})
			defer x.socks.close()
			x.view.observe = observe
			l.SnapshotChanged()
			before := l.arrived.ns.Load()
			l.SnapshotChanged() // a second change does not replace the first one's time
			x.apply()
			if got := l.arrived.ns.Load(); got != before || before == 0 {
				t.Errorf("arrived at %d, expected %d", got, before)
			}
			if l.State() != nil {
				t.Error("a plan is applied")
			}
		})
	}
}

// The node is ready although entries of objects and of other nodes' records are refused, and each is logged once.
func TestFinish_EntriesRefused_IsReadyAndLogsOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	source, err := snapshot.New(snapshot.Config{Disk: disk.Dir(t.TempDir()), Changed: func() {}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ready := 0
	l := New(Config{Source: source, Log: log, BeforeReady: func() {}, Ready: func(*State) { ready++ }, Record: func(model.Node) {}})
	x := newApplier(l, DataPath{})
	defer x.socks.close()
	refused := split(errors.Join(errors.Join(errors.New("rule a"), errors.New("rule b")), errors.New("peer c")))
	x.finish(&plan.Plan{}, nil, outcome{err: errors.New("no link"), refused: refused})
	if l.State().Ready || ready != 0 {
		t.Error("ready although the node's own configuration is not applied")
	}
	for range 3 {
		x.finish(&plan.Plan{}, nil, outcome{refused: refused})
	}
	if s := l.State(); !s.Ready || ready != 1 || len(s.Refused) != 3 {
		t.Errorf("ready %v (%d calls), refused %v", s.Ready, ready, s.Refused)
	}
	for _, e := range refused {
		if n := strings.Count(out.String(), e.Error()); n != 1 {
			t.Errorf("%q is logged %d times", e, n)
		}
	}
}

func TestArrival_Restore_OldestChangeWins(t *testing.T) {
	var a arrival
	if !a.take().IsZero() {
		t.Error("a change without a mark")
	}
	a.mark()
	first := a.take()
	a.mark()
	a.restore(first)
	if got := a.take(); !got.Equal(first) {
		t.Errorf("%v, expected the restored %v", got, first)
	}
	a.restore(time.Time{})
	if !a.take().IsZero() {
		t.Error("restoring nothing is a change")
	}
}

// The same snapshot and node give the same table, and a change of the node another one.
func TestTableCache_SameInput_ReturnsTheSameTable(t *testing.T) {
	in := plan.Input{Snapshot: &model.Snapshot{}}
	var c tableCache
	in.Compile = c.build
	first, _ := plan.Make(in)
	if second, _ := plan.Make(in); second.Table != first.Table {
		t.Error("compiled again")
	}
	in.Zone = "z"
	if third, _ := plan.Make(in); third.Table == first.Table {
		t.Error("not compiled again")
	}
}

// Succeeded is the time of the last apply without Err, and a failed apply keeps it.
func TestFinish_FailedApply_KeepsTheTimeOfTheLastSuccess(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	source, err := snapshot.New(snapshot.Config{Disk: disk.Dir(t.TempDir()), Changed: func() {}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	l := New(Config{Self: func() plan.Self { return plan.Self{} }, Source: source, Log: log, BeforeReady: func() {}, Ready: func(*State) {},
		Record: func(model.Node) {}})
	x := newApplier(l, DataPath{})
	defer x.socks.close()
	x.finish(&plan.Plan{}, nil, outcome{err: errors.New("no link")})
	if s := l.State(); !s.Succeeded.IsZero() || s.At.IsZero() || s.Ready {
		t.Errorf("after the first apply, which failed: %+v", s)
	}
	x.finish(&plan.Plan{}, nil, outcome{})
	first := l.State()
	if first.Succeeded.IsZero() || !first.Succeeded.Equal(first.At) || !first.Ready {
		t.Errorf("after a successful apply: %+v", first)
	}
	time.Sleep(time.Millisecond)
	x.finish(&plan.Plan{}, nil, outcome{err: errors.New("no link")})
	if s := l.State(); !s.Succeeded.Equal(first.Succeeded) || !s.At.After(first.At) || !s.Ready {
		t.Errorf("after a failed apply: %+v, expected Succeeded %v", s, first.Succeeded)
	}
}

// A kube-proxy that was found is not considered removed because the kernel's chains could not be listed; the next look repeats
// the list.
func TestSeesKubeProxy_ListFails_KeepsTheLastResult(t *testing.T) {
	var chains []hostnet.Chain
	var failure error
	x := newApplier(New(Config{Log: slog.New(slog.DiscardHandler)}), DataPath{})
	x.view.chains = func() ([]hostnet.Chain, error) { return chains, failure }
	look := func(want bool) {
		t.Helper()
		x.chains.Store(false)
		if got := x.seesKubeProxy(); got != want {
			t.Errorf("%v, expected %v", got, want)
		}
		x.view.KubeProxy = want
		if again := x.chains.Load(); again != (failure != nil) {
			t.Errorf("looks again: %v", again)
		}
	}
	look(false)
	chains = []hostnet.Chain{{Table: "kube-proxy", Name: "services"}}
	look(true)
	chains, failure = nil, errors.New("results may be incomplete or inconsistent")
	look(true)
	failure = nil
	look(false)
}
