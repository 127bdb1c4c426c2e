// Command bench measures what a Service proxy needs from the write of an EndpointSlice to the first connection on the
// new backend, at growing numbers of Services, and a new Pod from its creation to its first packet and its first answer
// of a Service, on a cluster that is up. It runs on a node (rig/in.sh n1) and does not know whose network it measures;
// hack/bench-k8s.sh runs it with warren and with the reference network.
package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

const namespace = "bench"

// idleFor is how long the processes are watched while nothing changes.
const idleFor = 10 * time.Second

type bench struct {
	client  kubernetes.Interface
	backend string // address of a Pod that listens on port
	port    int32
	made    int
	process string
	image   string
}

func main() {
	kubeconfig := flag.String("kubeconfig", "", "kubeconfig of an administrator")
	sizes := flag.String("services", "100,1000,10000", "numbers of Services")
	tries := flag.Int("tries", 40, "new Services measured at each size")
	backend := flag.String("backend", "", "address:port of a Pod that accepts TCP connections")
	process := flag.String("process", "", "measure CPU and RSS of processes whose command line starts with one of these (separated by |)")
	name := flag.String("name", "", "what is measured, for the output")
	var p podPlan
	flag.IntVar(&p.tries, "pods", 0, "new Pods measured, one after the other; 0: none")
	flag.IntVar(&p.burst, "burst", 100, "Pods started at once after that")
	flag.StringVar(&p.node, "pod-node", "n3", "where they run")
	flag.StringVar(&p.image, "pod-image", "localhost/agnhost:rig", "image with bash and /agnhost")
	flag.StringVar(&p.runtime, "pod-runtime", "", "address:port of that node's containerd's metrics")
	flag.Parse()
	if err := run(*kubeconfig, *sizes, *tries, *backend, *process, *name, p); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// podPlan describes how Pods are measured.
type podPlan struct {
	tries, burst         int
	node, image, runtime string
}

func run(kubeconfig, sizes string, tries int, backend, process, name string, p podPlan) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	cfg.QPS, cfg.Burst = 3000, 3000
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(backend)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	b := &bench{client: client, backend: host, port: int32(n), process: process, image: p.image}
	ctx := context.Background()
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if p.tries > 0 {
		if err := b.pods(ctx, name, p); err != nil {
			return err
		}
	}
	for _, s := range strings.Split(sizes, ",") {
		size, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		if err := b.fill(ctx, size); err != nil {
			return err
		}
		if err := b.measure(ctx, name, size, tries); err != nil {
			return err
		}
	}
	return nil
}

// fill makes Services with an endpoint each until there are n, and waits until the last one answers.
func (b *bench) fill(ctx context.Context, n int) error {
	todo := make(chan int)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for range 16 {
		wg.Go(func() {
			for i := range todo {
				if _, err := b.service(ctx, fmt.Sprintf("s-%d", i), true); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for ; b.made < n; b.made++ {
		todo <- b.made
	}
	close(todo)
	wg.Wait()
	if first != nil {
		return first
	}
	last, err := b.service(ctx, fmt.Sprintf("last-%d", n), true)
	if err != nil {
		return err
	}
	_, err = reach(last, 5*time.Minute)
	time.Sleep(3 * time.Second)
	return err
}

// service makes a Service, and its slice if withSlice; it returns the cluster address.
func (b *bench) service(ctx context.Context, name string, withSlice bool) (string, error) {
	s, err := b.client.CoreV1().Services(namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(b.port)}}}}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	if withSlice {
		err = b.slice(ctx, name)
	}
	return s.Spec.ClusterIP, err
}

func (b *bench) slice(ctx context.Context, name string) error {
	proto, ready := corev1.ProtocolTCP, true
	_, err := b.client.DiscoveryV1().EndpointSlices(namespace).Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Port: &b.port, Protocol: &proto}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{b.backend}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
	}, metav1.CreateOptions{})
	return err
}

// reach connects again and again until it succeeds.
func reach(ip string, within time.Duration) (time.Duration, error) {
	start := time.Now()
	for {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(ip, "80"), 50*time.Millisecond)
		if err == nil {
			c.Close()
			return time.Since(start), nil
		}
		if time.Since(start) > within {
			return 0, fmt.Errorf("%s not reached within %s: %w", ip, within, err)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func (b *bench) measure(ctx context.Context, name string, size, tries int) error {
	var took []time.Duration
	cpu := b.cpu()
	time.Sleep(idleFor)
	idle := (b.cpu() - cpu) * 1000 / idleFor.Seconds()
	cpu = b.cpu()
	for i := range tries {
		id := fmt.Sprintf("new-%d-%d", size, i)
		ip, err := b.service(ctx, id, false)
		if err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond) // the Service itself is old news by then
		wrote := make(chan time.Time, 1)
		go func() {
			if err = b.slice(ctx, id); err == nil {
				wrote <- time.Now()
			}
			close(wrote)
		}()
		// The answer of the API server and the proxy's work run side by side; a proxy may well be first.
		_, rerr := reach(ip, time.Minute)
		arrived := time.Now()
		at, ok := <-wrote
		if !ok || rerr != nil {
			return fmt.Errorf("write: %v, connect: %w", err, rerr)
		}
		took = append(took, max(0, arrived.Sub(at)))
		time.Sleep(100 * time.Millisecond)
	}
	slices.Sort(took)
	fmt.Printf("%s services=%d p50=%.2fms p99=%.2fms max=%.2fms cpu=%.0fms/change idle=%.1fms/s rss=%dMB\n", name, size,
		ms(took[len(took)/2]),
		ms(took[len(took)*99/100]), ms(took[len(took)-1]), (b.cpu()-cpu)*1000/float64(tries), idle, b.rss())
	return nil
}

// pids are the processes to be measured on this node.
func (b *bench) pids() (out []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range all {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		line := strings.ReplaceAll(string(raw), "\x00", " ")
		for _, p := range strings.Split(b.process, "|") {
			if p != "" && strings.HasPrefix(line, p) {
				out = append(out, filepath.Base(filepath.Dir(f)))
			}
		}
	}
	return out
}

// cpu is the time in seconds that they have used.
func (b *bench) cpu() (sum float64) {
	hz := 100.0
	if out, err := exec.Command("getconf", "CLK_TCK").Output(); err == nil {
		if v, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64); err == nil {
			hz = v
		}
	}
	for _, p := range b.pids() {
		raw, err := os.ReadFile("/proc/" + p + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		for _, x := range f[11:13] { // utime, stime
			v, _ := strconv.ParseFloat(x, 64)
			sum += v / hz
		}
	}
	return sum
}

// rss is their resident memory in megabytes.
func (b *bench) rss() (mb int) {
	for _, p := range b.pids() {
		raw, _ := os.ReadFile("/proc/" + p + "/status")
		for _, l := range strings.Split(string(raw), "\n") {
			if v, ok := strings.CutPrefix(l, "VmRSS:"); ok {
				kb, _ := strconv.Atoi(strings.Fields(v)[0])
				mb += kb / 1024
			}
		}
	}
	return mb
}
