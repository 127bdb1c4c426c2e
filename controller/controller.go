package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/warrennet/warren/internal/lbpool"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
)

// Names of objects. The agent's manifests mount them by these names.
const (
	OperatorConfig = "warren-config"
	ClusterConfig  = "warren-cluster"
	CASecret       = "warren-etcd-ca"
	ClientSecret   = "warren-etcd-client"
	LeaseName      = "warren-controller"
	// AgentSelector selects the agents' Pods.
	AgentSelector = "app.kubernetes.io/name=warren,app.kubernetes.io/component=agent"
	// ManagedBy is the label value of objects that the controller may change.
	ManagedBy = "controller.warren.dev"
)

// Config is the configuration of the controller.
type Config struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface // for AddressPools
	Namespace string
	Identity  string // of this process, in the Lease
	Log       *slog.Logger
}

// Run waits until this process is the leader, then does the leader's work until ctx ends. After the loss of the Lease it
// returns an error: the process must end then, so that two leaders never write.
func Run(parent context.Context, c Config) error {
	ctx, cancel := context.WithCancel(parent)
	leading := make(chan context.Context, 1) // the context ends with the loss of the Lease
	le, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: LeaseName},
			Client: c.Client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: c.Identity}},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader:      func(id string) { c.Log.Info("leader elected", "leader", id, "identity", c.Identity) },
		},
	})
	if err != nil {
		cancel()
		return fmt.Errorf("leader election: %w", err)
	}
	elected := make(chan struct{})
	go func() {
		defer close(elected)
		le.Run(ctx)
		cancel()
	}()
	defer func() { cancel(); <-elected }()
	select {
	case <-ctx.Done():
		return nil
	case lead := <-leading:
		if err := Lead(lead, c); err != nil {
			return err
		}
	}
	if parent.Err() == nil {
		return fmt.Errorf("lost Lease %s/%s to another controller, or could not renew it", c.Namespace, LeaseName)
	}
	return nil
}

// controller is the state of the leader. Only the goroutine of Lead uses it.
type controller struct {
	Config
	sources *sources
	events  record.EventRecorder
	logged  map[string]string // topic -> what was last logged about it
	wrote   map[types.UID]written
	taken   lbpool.Taken // load balancer addresses and ports after the last pass
}

// Lead does the leader's work until ctx ends.
func Lead(ctx context.Context, c Config) error {
	s, err := newSources(ctx, c.Client, c.Dynamic, c.Namespace)
	if err != nil {
		return err
	}
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: c.Client.CoreV1().Events("")})
	defer b.Shutdown()
	k := &controller{Config: c, sources: s, logged: map[string]string{},
		events: b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "warren-controller"})}
	stop := s.start(ctx)
	defer stop()
	return k.loop(ctx)
}

const (
	settleTime = 100 * time.Millisecond // changes within this time are one pass
	minRetry   = time.Second
	maxRetry   = 30 * time.Second
	// passAtLeast renews certificates in time, and repairs differences that no watch reported.
	passAtLeast = time.Hour
)

// loop makes a pass after every change, after a failure, and at least every passAtLeast.
func (k *controller) loop(ctx context.Context) error {
	if !k.sources.wait(ctx) {
		return nil
	}
	retry := minRetry
	for {
		next := passAtLeast
		if err := k.pass(ctx); ctx.Err() != nil {
			return nil
		} else if err != nil {
			k.logOnce("pass", slog.LevelWarn, "cannot write all objects to the API server; retrying", "err", err)
			next, retry = retry, min(2*retry, maxRetry)
		} else {
			k.forget("pass")
			retry = minRetry
		}
		if !k.pause(ctx, next) {
			return nil
		}
	}
}

// pause waits for a change, at most that long, and then settleTime for further changes.
func (k *controller) pause(ctx context.Context, most time.Duration) bool {
	t := time.NewTimer(most)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	case <-k.sources.changed:
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(settleTime):
		return true
	}
}

// pass compares the objects with the desired ones and writes the differences. A failed part does not block the others.
func (k *controller) pass(ctx context.Context) error {
	v := k.sources.view()
	op, err := parseOperator(v.operator)
	if err != nil {
		// Without the operator's settings the cluster could get default ranges, which cannot be changed later.
		return err
	}
	dns := planDNS(v, op)
	f, notes := resolve(v, op, dns)
	return errors.Join(
		k.ensureOperatorConfig(ctx, v),
		k.ensureSecrets(ctx, v, op),
		k.writeCluster(ctx, v, f, notes),
		k.applyDNS(ctx, v, dns),
		k.clearNetworkUnavailable(ctx, v),
		k.reportPolicies(v),
		k.reportExternalIPs(v, op),
		k.assignAddresses(ctx, v, f),
		k.serveIngresses(ctx, v),
	)
}

// logOnce logs a message about a topic, unless it is equal to the last one about this topic. It reports whether it logged.
func (k *controller) logOnce(topic string, level slog.Level, message string, attributes ...any) bool {
	text := fmt.Sprint(append([]any{message}, attributes...)...)
	if k.logged[topic] == text {
		return false
	}
	k.logged[topic] = text
	k.Log.Log(context.Background(), level, message, attributes...)
	return true
}

// forget resets the deduplication of a topic.
func (k *controller) forget(topic string) { delete(k.logged, topic) }

// forgetOthers resets the deduplication of all topics with that prefix that are not in current.
func (k *controller) forgetOthers(prefix string, current map[string]bool) {
	for topic := range k.logged {
		if strings.HasPrefix(topic, prefix) && !current[topic] {
			k.forget(topic)
		}
	}
}
