// Package relay makes the TLS connections of log drivers, in a process of its own: a shim
// does not link TLS.
package relay

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"time"

	"berth/logs/remote"
)

// handshake bounds connecting; the shim gives up sooner or later than that by itself.
const handshake = 30 * time.Second

// Serve makes the connection that request, a remote.TLSRequest in JSON, asks for, and
// encrypts what comes by descriptor 3 until either side ends.
func Serve(request string) error { return remote.ServeTLS(request, dial) }

func dial(req remote.TLSRequest) (net.Conn, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: req.TLS.SkipVerify}
	if req.TLS.CA != "" {
		pem, err := os.ReadFile(req.TLS.CA)
		if err != nil {
			return nil, fmt.Errorf("CA certificate: %w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA certificate: %s holds none in PEM", req.TLS.CA)
		}
	}
	if req.TLS.Cert != "" {
		pair, err := tls.LoadX509KeyPair(req.TLS.Cert, req.TLS.Key)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return tls.DialWithDialer(&net.Dialer{Timeout: handshake}, "tcp", req.Address, cfg)
}
