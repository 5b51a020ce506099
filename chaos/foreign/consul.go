package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// How long the agent may take for an answer.
const agentTimeout = 5 * time.Second

// An entry is this process in the registry, as a Go service registers itself:
// by the agent's HTTP interface, with a gRPC check.
type entry struct {
	agent, id, service, address string
}

func (e entry) register() error {
	if e.agent == "" {
		return nil
	}
	host, port, err := net.SplitHostPort(e.address)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	return e.put("/v1/agent/service/register", map[string]any{
		"ID": e.id, "Name": e.service, "Address": host, "Port": number,
		"Tags": []string{"grpc"},
		"Check": map[string]any{
			"GRPC": e.address, "Interval": "1s", "Timeout": "2s",
			"DeregisterCriticalServiceAfter": "60s",
		},
	})
}

func (e entry) deregister() error {
	if e.agent == "" {
		return nil
	}
	return e.put("/v1/agent/service/deregister/"+url.PathEscape(e.id), nil)
}

func (e entry) put(path string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	request, err := http.NewRequest(http.MethodPut, e.agent+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	client := http.Client{Timeout: agentTimeout}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the agent answers %s to %s", response.Status, path)
	}
	return nil
}

// A next is the service that calls are passed on to, found once.
type next struct {
	registry, service string
	mu                sync.Mutex
	conn              *grpc.ClientConn
}

// call passes a call on; its deadline goes with the context.
func (n *next) call(ctx context.Context) error {
	conn, err := n.connection()
	if err != nil {
		return err
	}
	request, response := []byte{}, []byte{}
	return conn.Invoke(ctx, methods+"Read", &request, &response, grpc.ForceCodec(bytesCodec{}))
}

func (n *next) connection() (*grpc.ClientConn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn != nil {
		return n.conn, nil
	}
	client := http.Client{Timeout: agentTimeout}
	response, err := client.Get(n.registry + "/v1/health/service/" + url.PathEscape(n.service) + "?passing=1")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var found []struct {
		Service struct {
			Address string
			Port    int
		}
	}
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("no instance of %s passes", n.service)
	}
	at := net.JoinHostPort(found[0].Service.Address, strconv.Itoa(found[0].Service.Port))
	n.conn, err = grpc.NewClient("passthrough:///"+at, grpc.WithTransportCredentials(insecure.NewCredentials()))
	return n.conn, err
}
