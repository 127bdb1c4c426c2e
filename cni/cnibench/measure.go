package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/warrennet/warren/cni/internal/sandbox"
)

// peer is one plugin under measurement.
type peer struct {
	name string
	list *libcni.NetworkConfigList
	cni  *libcni.CNIConfig
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
		out = append(out, peer{c.name, list, libcni.NewCNIConfigWithCacheDir([]string{path}, filepath.Join(node.Dir, "cache"), nil)})
	}
	return out, nil
}

// measure runs one round of a peer: sequential and parallel, at no Pods and at many.
func measure(o options, node *sandbox.Node, p peer, pods []*sandbox.Namespace, t table) error {
	defer os.RemoveAll(filepath.Join(node.Dir, "cache"))
	for _, have := range []int{0, o.pods} {
		old, fresh := pods[:have], pods[have:have+o.calls]
		if _, err := each(node, p, "ADD", o.parallel, old); err != nil {
			return err
		}
		for _, par := range []int{1, o.parallel} {
			for _, op := range []string{"ADD", "DEL"} {
				r, err := each(node, p, op, par, fresh)
				if err != nil {
					return err
				}
				k := key{p.name, op, have, par}
				t[k] = append(t[k], r)
			}
		}
		if _, err := each(node, p, "DEL", o.parallel, old); err != nil {
			return err
		}
	}
	return nil
}

// result is one measurement: wall times of single calls in ms, sorted, and calls per second of all together.
type result struct {
	ms   []float64
	rate float64
}

// each calls the plugin for every Pod, so many at once, from inside the node.
func each(node *sandbox.Node, p peer, op string, parallel int, pods []*sandbox.Namespace) (result, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		out   result
		first error
		next  atomic.Int32
	)
	start := time.Now()
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
	out.rate = float64(len(pods)) / time.Since(start).Seconds()
	slices.Sort(out.ms)
	return out, first
}

func one(p peer, op string, pod *sandbox.Namespace) error {
	rt := &libcni.RuntimeConf{ContainerID: "bench-" + filepath.Base(pod.Path()), NetNS: pod.Path(), IfName: "eth0"}
	if op == "ADD" {
		_, err := p.cni.AddNetworkList(context.Background(), p.list, rt)
		return err
	}
	return p.cni.DelNetworkList(context.Background(), p.list, rt)
}
