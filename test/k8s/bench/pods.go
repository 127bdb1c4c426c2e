package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// firsts is the program of a Pod that notes when it starts, when the first connection to a Pod of another node stands
// and when the first to a Service by its name.
const firsts = `echo $EPOCHREALTIME
until (exec 3<>/dev/tcp/$1/$2) 2>/dev/null; do :; done; echo $EPOCHREALTIME
until (exec 3<>/dev/tcp/$3/80) 2>/dev/null; do :; done; echo $EPOCHREALTIME`

// pods measures Pods one after the other, then many at once, all on one node, as the Pods see it and as the runtime does.
func (b *bench) pods(ctx context.Context, name string, p podPlan) error {
	if _, err := b.service(ctx, "first", true); err != nil {
		return err
	}
	var start, packet, service []time.Duration
	before, err := pluginTime(p.runtime)
	if err != nil {
		return err
	}
	for i := range p.tries {
		began := time.Now()
		pod := b.pod(fmt.Sprintf("first-%d", i), p.node, "bash", "-c", firsts, "firsts", b.backend, strconv.Itoa(int(b.port)), "first."+
			namespace+".svc.cluster.local")
		if _, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
			return err
		}
		if err := b.phase(ctx, []string{pod.Name}, ended); err != nil {
			return err
		}
		raw, err := b.client.CoreV1().Pods(namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		if err != nil {
			return err
		}
		at, err := moments(string(raw))
		if err != nil {
			return err
		}
		start, packet, service = append(start, at[0].Sub(began)), append(packet, at[1].Sub(began)), append(service, at[2].Sub(began))
	}
	after, err := pluginTime(p.runtime)
	if err != nil {
		return err
	}
	fmt.Printf("%s pods=1 tries=%d started p50=%.0fms first-packet p50=%.0fms max=%.0fms first-service p50=%.0fms max=%.0fms "+
		"network=%.1fms/pod\n",
		name, p.tries, ms(median(start)), ms(median(packet)), ms(slices.Max(packet)), ms(median(service)), ms(slices.Max(service)),
		after.perPod(before))
	return b.burst(ctx, name, p)
}

// burst starts many Pods at once and waits until all are Running.
func (b *bench) burst(ctx context.Context, name string, p podPlan) error {
	before, err := pluginTime(p.runtime)
	if err != nil {
		return err
	}
	cpu := b.cpu()
	began := time.Now()
	var names []string
	var wg sync.WaitGroup
	errs := make(chan error, p.burst)
	for i := range p.burst {
		pod := b.pod(fmt.Sprintf("burst-%d", i), p.node, "/agnhost", "pause")
		names = append(names, pod.Name)
		wg.Go(func() {
			_, err := b.client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{})
			errs <- err
		})
	}
	wg.Wait()
	for range p.burst {
		if err := <-errs; err != nil {
			return err
		}
	}
	if err := b.phase(ctx, names, running); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := pluginTime(p.runtime)
	if err != nil {
		return err
	}
	fmt.Printf("%s pods=%d running=%.1fs network=%.1fms/pod sum=%.2fs cpu(n1)=%.0fms\n", name, p.burst, took.Seconds(),
		after.perPod(before), after.sum-before.sum, (b.cpu()-cpu)*1000)
	zero := int64(0)
	return b.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{GracePeriodSeconds: &zero}, metav1.ListOptions{})
}

func (b *bench) pod(name, node string, command ...string) *corev1.Pod {
	zero, no := int64(0), false
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{NodeName: node, RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: &zero,
			AutomountServiceAccountToken: &no,
			Containers:                   []corev1.Container{{Name: "c", Image: b.image, Command: command}}}}
}

func ended(p *corev1.Pod) bool   { return p.Status.Phase == corev1.PodSucceeded }
func running(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning }

// phase waits until all of the Pods are in a phase.
func (b *bench) phase(ctx context.Context, names []string, ok func(*corev1.Pod) bool) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	list, err := b.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	missing := map[string]bool{}
	for _, n := range names {
		missing[n] = true
	}
	seen := func(p *corev1.Pod) {
		if ok(p) {
			delete(missing, p.Name)
		}
	}
	for i := range list.Items {
		seen(&list.Items[i])
	}
	w, err := b.client.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		return err
	}
	defer w.Stop()
	for len(missing) > 0 {
		e, open := <-w.ResultChan()
		if !open {
			return fmt.Errorf("the watch ended while %d Pods were missing: %w", len(missing), ctx.Err())
		}
		if p, is := e.Object.(*corev1.Pod); is && e.Type != watch.Deleted {
			seen(p)
		}
	}
	return nil
}

// moments reads what firsts printed.
func moments(log string) (out []time.Time, err error) {
	for _, l := range strings.Fields(log) {
		s, us, _ := strings.Cut(l, ".")
		sec, err1 := strconv.ParseInt(s, 10, 64)
		micro, err2 := strconv.ParseInt(us, 10, 64)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("a Pod printed %q", log)
		}
		out = append(out, time.Unix(sec, micro*1000))
	}
	if len(out) != 3 {
		return nil, fmt.Errorf("a Pod printed %q, expected three times", log)
	}
	return out, nil
}

// attached reads the runtime's metrics of attaching Pods since it started: all plugins, with their processes.
type attached struct{ count, sum float64 }

func (a attached) perPod(before attached) float64 {
	if a.count == before.count {
		return 0
	}
	return 1000 * (a.sum - before.sum) / (a.count - before.count)
}

func pluginTime(runtime string) (p attached, err error) {
	resp, err := http.Get("http://" + runtime + "/v1/metrics")
	if err != nil {
		return p, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return p, err
	}
	for _, l := range strings.Split(string(raw), "\n") {
		if !strings.Contains(l, "network_plugin_operations_duration") || !strings.Contains(l, `"set_up_pod"`) {
			continue
		}
		v, _ := strconv.ParseFloat(l[strings.LastIndexByte(l, ' ')+1:], 64)
		switch name, _, _ := strings.Cut(l, "{"); {
		case strings.HasSuffix(name, "_sum"):
			p.sum = v
		case strings.HasSuffix(name, "_count"):
			p.count = v
		}
	}
	return p, nil
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
