package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

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
	// AgentSelector finds the agents' Pods.
	AgentSelector = "app.kubernetes.io/name=warren,app.kubernetes.io/component=agent"
	// ManagedBy is in the labels of what the controller may change again.
	ManagedBy = "controller.warren.dev"
)

// Config is the controller's.
type Config struct {
	Client    kubernetes.Interface
	Dynamic   dynamic.Interface // for AddressPools
	Namespace string
	Identity  string // of this process, in the Lease
	Log       *slog.Logger
}

// Run waits until this process is the leader and works until ctx ends. It returns an error when it lost the lead: the
// process should end then, so that nothing of its work goes on.
func Run(parent context.Context, c Config) error {
	ctx, cancel := context.WithCancel(parent)
	leading := make(chan context.Context, 1) // the context ends with the lead
	le, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{LeaseMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: LeaseName},
			Client: c.Client.CoordinationV1(), LockConfig: resourcelock.ResourceLockConfig{Identity: c.Identity}},
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: 2 * time.Second,
		ReleaseOnCancel: true, Name: LeaseName,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(ctx context.Context) { leading <- ctx },
			OnStoppedLeading: func() {},
			OnNewLeader:      func(id string) { c.Log.Info("the leader is", "identity", id, "own", id == c.Identity) },
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
		return errors.New("lost the lead")
	}
	return nil
}

// controller is the leader's work. Only the goroutine of Lead uses it.
type controller struct {
	Config
	sources *sources
	events  record.EventRecorder
	said    map[string]string // topic -> what was last said about it
	wrote   map[types.UID]written
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
	k := &controller{Config: c, sources: s, said: map[string]string{},
		events: b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "warren-controller"})}
	stop := s.start(ctx)
	defer stop()
	return k.loop(ctx)
}

const (
	settleTime = 100 * time.Millisecond // changes within it are one pass
	minRetry   = time.Second
	maxRetry   = 30 * time.Second
	// passAtLeast renews certificates in time and mends what no watch told.
	passAtLeast = time.Hour
)

// loop makes a pass over everything whenever something changed, and again after a failure.
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
			k.say("pass", slog.LevelWarn, err.Error())
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

// pause waits for a change, at most so long, and for those that come with it.
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

// pass compares everything with how it should be, and writes what differs. A failure of one part does not hold up
// the others, but for those that build on it.
func (k *controller) pass(ctx context.Context) error {
	v := k.sources.view()
	op, err := parseOperator(v.operator)
	if err != nil {
		// Guessing instead of what a person meant would give the cluster ranges that cannot be changed later.
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
		k.reportIngresses(v),
		k.assignAddresses(ctx, v, f),
	)
}

// say logs what is new about a topic, once.
func (k *controller) say(topic string, level slog.Level, text string) bool {
	if k.said[topic] == text {
		return false
	}
	k.said[topic] = text
	k.Log.Log(context.Background(), level, text)
	return true
}

// forget lets the next word about a topic be logged whatever it is.
func (k *controller) forget(topic string) { delete(k.said, topic) }

// forgetOthers forgets the topics that begin so and are no more.
func (k *controller) forgetOthers(prefix string, there map[string]bool) {
	for topic := range k.said {
		if strings.HasPrefix(topic, prefix) && !there[topic] {
			k.forget(topic)
		}
	}
}
