package controller

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/warrennet/warren/internal/pki"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The agents' client certificate for etcd. The kubelet updates it on all nodes within minutes.
const (
	clientName     = "warren-agent"
	clientValidity = 365 * 24 * time.Hour
)

const labelManagedBy = "app.kubernetes.io/managed-by"

// ensureSecrets creates the authority and the agents' certificate if they are missing. It renews the certificate in time and
// when the authority has changed. With the operator's own etcd it does neither, and it never renews a certificate without
// the label of the controller.
func (k *controller) ensureSecrets(ctx context.Context, v view, op operator) error {
	if len(op.etcdEndpoints) > 0 {
		return nil
	}
	if v.ca == nil {
		ca, err := pki.NewCA("warren etcd")
		if err != nil {
			return err
		}
		return k.createSecret(ctx, CASecret, corev1.SecretTypeOpaque, map[string][]byte{pki.CAFile: ca.Trusted(),
			pki.CAKeyFile: ca.KeyPEM()})
	}
	ca, err := pki.ParseCA(v.ca.Data[pki.CAFile], v.ca.Data[pki.CAKeyFile])
	if err != nil {
		return fmt.Errorf("secret %s: %w", CASecret, err)
	}
	if v.client == nil {
		data, err := clientData(ca)
		if err != nil {
			return err
		}
		return k.createSecret(ctx, ClientSecret, corev1.SecretTypeTLS, data)
	}
	if v.client.Labels[labelManagedBy] != ManagedBy || !clientDue(ca, v.client, time.Now()) {
		return nil
	}
	renewed := v.client.DeepCopy()
	if renewed.Data, err = clientData(ca); err != nil {
		return err
	}
	if _, err := k.Client.CoreV1().Secrets(k.Namespace).Update(ctx, renewed, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("renew Secret %s: %w", ClientSecret, err)
	}
	k.Log.Info("renewed the agents' client certificate for etcd", "object", ClientSecret)
	return nil
}

// clientDue reports whether the certificate must be renewed: a third of its validity is left, or the authority has changed.
func clientDue(ca *pki.CA, s *corev1.Secret, now time.Time) bool {
	pair := pki.Pair{Cert: s.Data[corev1.TLSCertKey], Key: s.Data[corev1.TLSPrivateKeyKey]}
	return !now.Before(ca.RenewAt(pair)) || !bytes.Equal(s.Data[pki.CAFile], ca.Trusted())
}

func clientData(ca *pki.CA) (map[string][]byte, error) {
	p, err := ca.Sign(pki.Request{Name: clientName, Valid: clientValidity})
	if err != nil {
		return nil, err
	}
	return map[string][]byte{pki.CAFile: ca.Trusted(), corev1.TLSCertKey: p.Cert, corev1.TLSPrivateKeyKey: p.Key}, nil
}

// createSecret creates a Secret. If another process has created it meanwhile, the next pass reads that one.
func (k *controller) createSecret(ctx context.Context, name string, kind corev1.SecretType, data map[string][]byte) error {
	_, err := k.Client.CoreV1().Secrets(k.Namespace).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: k.Namespace, Labels: labels("etcd")}, Type: kind, Data: data,
	}, metav1.CreateOptions{})
	if err == nil {
		k.Log.Info("created Secret", "object", name)
	}
	return ignoreExisting(err, "create Secret "+name)
}
