package main

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/warrennet/warren/cni/internal/sandbox"
	"golang.org/x/sys/unix"
)

// peer is one plugin to measure.
type peer struct {
	name string
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
	pods []*sandbox.Namespace
}

func makePeers(o options, node *sandbox.Node) ([]peer, error) {
	confs := []struct{ name, conf, path string }{
		{"warren", fmt.Sprintf(`{"type":"warren-cni","socket":%q}`, node.Socket), o.plugin},
	}
	if o.reference != "" {
		ptp := fmt.Sprintf(`{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":%q,
			"ranges":[[{"subnet":"10.67.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}}`, filepath.Join(node.Dir, "host-local"))
		confs = append(confs, struct{ name, conf, path string }{"ptp", ptp, o.reference})
	}
	var out []peer
	for _, c := range confs {
		list, err := libcni.ConfListFromBytes(fmt.Appendf(nil, `{"cniVersion":"1.0.0","name":"bench-%s","plugins":[%s]}`, c.name, c.conf))
		if err != nil {
			return nil, err
		}
		path, err := filepath.Abs(c.path)
		if err != nil {
			return nil, err
		}
		p := peer{name: c.name, list: list, cni: libcni.NewCNIConfigWithCacheDir([]string{path}, filepath.Join(node.Dir, "cache"), nil)}
		for range o.pods + o.calls {
			pod, err := sandbox.New()
			if err != nil {
				return out, err
			}
			p.pods = append(p.pods, pod)
		}
		out = append(out, p)
	}
	return out, nil
}

// part is one measurement: the number of existing Pods and of concurrent calls.
type part struct{ have, par int }

// measure runs one round. The peers take turns every few calls, so that other load of the machine affects all of them.
func measure(o options, node *sandbox.Node, peers []peer, t table) error {
	for _, have := range []int{0, o.pods} {
		for _, p := range peers {
			if _, err := each(node, p, "ADD", o.parallel, p.pods[:have]); err != nil {
				return err
			}
		}
		for _, par := range []int{1, o.parallel} {
			turn := max(4*par, 5)
			for from := have; from < have+o.calls; from += turn {
				if err := takeTurns(node, peers, part{have, par}, from, min(from+turn, have+o.calls), t); err != nil {
					return err
				}
			}
		}
		for _, p := range peers {
			if _, err := each(node, p, "DEL", o.parallel, p.pods[:have]); err != nil {
				return err
			}
		}
	}
	return nil
}

func takeTurns(node *sandbox.Node, peers []peer, how part, from, to int, t table) error {
	for _, op := range []string{"ADD", "DEL"} {
		for _, p := range peers {
			r, err := each(node, p, op, how.par, p.pods[from:to])
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.name, op, err)
			}
			t.add(key{p.name, op, how.have, how.par}, r)
		}
	}
	return nil
}

// result holds the durations of some calls.
type result struct {
	ms   []float64     // wall time of each
	wall time.Duration // of all together
	cpu  time.Duration // of the plugins' processes; varies less than the wall times
}

// each calls the plugin for every Pod from inside the node, with that many concurrent calls.
func each(node *sandbox.Node, p peer, op string, parallel int, pods []*sandbox.Namespace) (result, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		out   result
		first error
		next  atomic.Int32
	)
	start, cpu := time.Now(), childrenCPU()
	for range parallel {
		wg.Go(func() {
			err := node.Do(func() error {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(pods) {
						return nil
					}
					t := time.Now()
					if err := one(p, op, pods[i]); err != nil {
						return err
					}
					d := time.Since(t)
					mu.Lock()
					out.ms = append(out.ms, d.Seconds()*1e3)
					mu.Unlock()
				}
			})
			mu.Lock()
			defer mu.Unlock()
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	out.wall, out.cpu = time.Since(start), childrenCPU()-cpu
	return out, first
}

// childrenCPU returns the CPU time of all child processes that have ended.
func childrenCPU() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_CHILDREN, &u) // fails only for an invalid argument
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func one(p peer, op string, pod *sandbox.Namespace) error {
	rt := &libcni.RuntimeConf{ContainerID: "bench-" + filepath.Base(pod.Path()), NetNS: pod.Path(), IfName: "eth0"}
	if op == "ADD" {
		_, err := p.cni.AddNetworkList(context.Background(), p.list, rt)
		return err
	}
	return p.cni.DelNetworkList(context.Background(), p.list, rt)
}
