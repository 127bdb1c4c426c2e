package cni

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/warrennet/warren/cni/internal/sandbox"
	"github.com/warrennet/warren/internal/api"
	"github.com/warrennet/warren/internal/testutil"
)

var addStages = []string{"reserve", "create", "configure", "commit", "print"}

// The agent undoes everything that a killed ADD has done, and the next ADD succeeds.
func TestAdd_KilledAtEachStage_IsUndoneByAgent(t *testing.T) {
	for _, s := range addStages {
		t.Run(s, func(t *testing.T) {
			r := newRig(t)
			p := r.pod()
			p.rt.Args = [][2]string{{"TEST_KILL", s}}
			if _, err := r.add(r.list("1.1.0"), p); err == nil || !strings.Contains(err.Error(), "killed") {
				t.Fatalf("error %v, expected that ADD was killed", err)
			}
			if s != "print" { // after the commit only the runtime's DEL removes it
				r.nothingLeft()
			}
			p.rt.Args = nil
			if s == "print" {
				if err := r.del(r.list("1.1.0"), p); err != nil {
					t.Fatal(err)
				}
			}
			r.mustAdd(p)
			if err := r.checkPod(r.list("1.1.0"), p); err != nil {
				t.Error(err)
			}
			for _, stage := range []string{"delete", ""} {
				p.rt.Args = [][2]string{{"TEST_KILL", stage}}
				if err := r.del(r.list("1.1.0"), p); (err == nil) != (stage == "") {
					t.Errorf("DEL killed at %q: %v", stage, err)
				}
			}
			r.nothingLeft()
		})
	}
}

// A failed ADD has undone everything when it returns.
func TestAdd_FailsAtEachStage_LeavesNothing(t *testing.T) {
	for _, s := range addStages {
		t.Run(s, func(t *testing.T) {
			r := newRig(t)
			p := r.pod()
			p.rt.Args = [][2]string{{"TEST_FAIL", s}}
			if _, err := r.add(r.list("1.1.0"), p); err == nil || !strings.Contains(err.Error(), "the test fails stage "+s) {
				t.Fatalf("error %v, expected that of the stage", err)
			}
			if left := r.leftovers(); left != "" {
				t.Error(left)
			}
			p.rt.Args = nil
			r.mustAdd(p)
		})
	}
}

// A retry may reach the agent before the agent has noticed the end of the killed plugin.
func TestAdd_RetryRightAfterKill_Succeeds(t *testing.T) {
	r := newRig(t)
	p := r.pod()
	for i := range 40 {
		p.rt.Args = [][2]string{{"TEST_KILL", addStages[i%4]}}
		if _, err := r.add(r.list("1.1.0"), p); err == nil {
			t.Fatal("ADD succeeded, expected that it was killed")
		}
		p.rt.Args = nil
		r.mustAdd(p)
		if err := r.del(r.list("1.1.0"), p); err != nil {
			t.Fatal(err)
		}
	}
	r.nothingLeft()
}

// Attaches and detaches many Pods with the real binary, eight at once, and kills many of the calls at random moments. In
// the end nothing may be left.
func TestPlugin_RandomKills_LeaveNothing(t *testing.T) {
	r := newRig(t)
	calls := 2000
	if testing.Short() {
		calls = 200
	}
	plugin := filepath.Join(t.TempDir(), "warren-cni")
	build(t, plugin, "github.com/warrennet/warren/cmd/warren-cni")
	var next, killed, added atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(w), 7))
			pod, err := sandbox.New()
			if err != nil {
				t.Error(err)
				return
			}
			defer pod.Close()
			err = r.Do(func() error {
				for next.Add(1) <= int64(calls)/2 {
					id := fmt.Sprintf("worker-%d-%d", w, rng.IntN(3))
					ok, err := callAndKill(r, plugin, "ADD", id, pod.Path(), rng)
					if err != nil {
						return fmt.Errorf("ADD %s: %w", id, err)
					}
					count(ok, &added, &killed)
					for !ok || rng.IntN(4) == 0 { // a runtime repeats DEL until it succeeds
						if ok, err = callAndKill(r, plugin, "DEL", id, pod.Path(), rng); err != nil {
							return fmt.Errorf("DEL %s: %w", id, err)
						}
						count(ok, nil, &killed)
					}
					if ok, err = callAndKill(r, plugin, "DEL", id, pod.Path(), nil); err != nil || !ok {
						return fmt.Errorf("last DEL %s: %v %w", id, ok, err)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d ADDs succeeded, %d calls were killed", added.Load(), killed.Load())
	if killed.Load() < int64(calls)/20 || added.Load() < int64(calls)/20 {
		t.Error("too few ADDs succeeded or were killed: the test proves nothing")
	}
	r.nothingLeft()
	if rep, err := r.Server.Reconcile(); err != nil || !rep.Empty() {
		t.Errorf("Reconcile found differences: %+v %v", rep, err)
	}
}

func count(ok bool, good, bad *atomic.Int64) {
	if !ok {
		bad.Add(1)
	} else if good != nil {
		good.Add(1)
	}
}

// callAndKill executes the plugin. With rng it may kill the plugin after a random time; ok is then false. A plugin that fails
// without being killed is an error.
func callAndKill(r *rig, plugin, command, id, netns string, rng *rand.Rand) (ok bool, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c := exec.CommandContext(ctx, plugin)
	c.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0"}
	c.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.1.0","name":"podnet","type":"warren-cni","socket":%q}`, r.Socket))
	var out bytes.Buffer
	c.Stdout = &out
	if err := c.Start(); err != nil {
		return false, err
	}
	if rng != nil && rng.IntN(3) > 0 {
		kill := time.AfterFunc(time.Duration(rng.Int64N(int64(24*time.Millisecond))), cancel)
		defer kill.Stop()
	}
	err = c.Wait()
	if ctx.Err() != nil && err != nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s", err, out.Bytes())
	}
	return true, nil
}

func TestPlugin_AgentUnreachable_DelWorksAndStatusFailsLate(t *testing.T) {
	r := newRig(t)
	l := r.list("1.1.0")
	p, q := r.pod(), r.pod()
	r.mustAdd(p)
	r.Stop()

	if _, err := r.add(l, q); code(err) != api.CodeTryAgain || !strings.Contains(err.Error(), r.Socket) {
		t.Errorf("ADD without agent: %v", err)
	}
	if err := r.Do(func() error { return r.cni.GetStatusNetworkList(context.Background(), l) }); err != nil {
		t.Errorf("STATUS fails although the agent may just be restarting: %v", err)
	}
	old := time.Now().Add(-unreachableGrace - time.Second)
	if err := os.Chtimes(filepath.Join(r.Dir, unreachableFile), old, old); err != nil {
		t.Fatal(err)
	}
	if err := r.Do(func() error { return r.cni.GetStatusNetworkList(context.Background(), l) }); code(err) != api.CodeLimited {
		t.Errorf("STATUS after the grace period without agent: %v", err)
	}
	q.rt.NetNS = "" // the container's namespace does not exist any more
	for _, pod := range []*testPod{p, q} {
		if err := r.del(l, pod); err != nil {
			t.Errorf("DEL without agent: %v", err)
		}
	}
	if links, err := r.Kernel.List(); len(links) != 0 || err != nil {
		t.Errorf("DEL without agent left %v %v", links, err)
	}

	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Pool.Get(p.at()); !ok {
		t.Error("the record is missing after the restart of the agent")
	}
	rep, err := r.Server.Reconcile()
	if err != nil || len(rep.Released) != 1 || rep.Released[0].ContainerID != p.rt.ContainerID {
		t.Errorf("reconciled: %+v %v", rep, err)
	}
	r.nothingLeft()
	if err := r.Do(func() error { return r.cni.GetStatusNetworkList(context.Background(), l) }); err != nil {
		t.Errorf("STATUS with agent: %v", err)
	}
	if _, err := os.Stat(filepath.Join(r.Dir, unreachableFile)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s was not removed: %v", unreachableFile, err)
	}
}

// An ADD waits for the start of the agent.
func TestAdd_AgentStartsLater_Succeeds(t *testing.T) {
	r := newRig(t)
	r.Stop()
	p := r.pod()
	done := make(chan error)
	go func() { _, err := r.add(r.list("1.1.0"), p); done <- err }()
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// The plugin undoes its attempt and retries with the restarted agent.
func TestAdd_AgentRestartsMeanwhile_Succeeds(t *testing.T) {
	r := newRig(t)
	p := r.pod()
	done := make(chan error)
	go func() { _, err := r.add(r.list("1.1.0"), p); done <- err }()
	testutil.EventuallyTrue(t, "an ADD has a reservation", func() bool { return len(r.Pool.Records()) == 1 })
	r.Stop()
	if err := r.Start(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	testutil.Eventually(t, "CHECK succeeds with the restarted agent", func() error { return r.checkPod(r.list("1.1.0"), p) })
}

// Plugin and agent are killed during an ADD. The restarted agent undoes it.
func TestReconcile_AgentAndPluginKilled_UndoesAdd(t *testing.T) {
	r := newRig(t)
	p := r.pod()
	r.mustAdd(p)
	rec, _ := r.Pool.Get(p.at())
	r.Stop()
	// The state after a killed ADD that was not undone: the interface, and a record that is not committed.
	data, err := os.ReadFile(filepath.Join(r.Dir, "pods.journal"))
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	if err := os.WriteFile(filepath.Join(r.Dir, "pods.journal"), bytes.Join(lines[:2], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	rep, err := r.Server.Reconcile()
	if err != nil || len(rep.Undone) != 1 || rep.Undone[0].HostIfName != rec.HostIfName {
		t.Errorf("reconciled: %+v %v", rep, err)
	}
	r.nothingLeft()
}

// An agent that lost its state directory adopts the Pods that run.
func TestReconcile_JournalLost_AdoptsPods(t *testing.T) {
	r := newRig(t)
	p := r.pod()
	p.rt.Args = [][2]string{{"K8S_POD_NAMESPACE", "shop"}, {"K8S_POD_NAME", "web-0"}}
	addrs := r.mustAdd(p)
	r.Stop()
	if err := os.Remove(filepath.Join(r.Dir, "pods.journal")); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := r.add(r.list("1.1.0"), p); code(err) < 100 {
		t.Errorf("second ADD without a record: %v", err)
	}
	rep, err := r.Server.Reconcile()
	if err != nil || len(rep.Adopted) != 1 {
		t.Fatalf("reconciled: %+v %v", rep, err)
	}
	rec, _ := r.Pool.Get(p.at())
	if fmt.Sprint(rec.Addresses) != fmt.Sprint(addrs) || rec.PodNamespace != "shop" || rec.PodName != "web-0" || !rec.Committed {
		t.Errorf("adopted: %+v", rec)
	}
	if q := r.mustAdd(r.pod()); q[0] == addrs[0] {
		t.Errorf("%s was assigned twice", q[0])
	}
	if err := r.del(r.list("1.1.0"), p); err != nil {
		t.Error(err)
	}
}
