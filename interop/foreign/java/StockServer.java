import io.grpc.Grpc;
import io.grpc.InsecureServerCredentials;
import io.grpc.Server;
import io.grpc.protobuf.services.HealthStatusManager;
import io.grpc.services.MetricRecorder;
import io.grpc.testing.integration.TestServiceImpl;
import java.util.concurrent.Executors;

/**
 * grpc-java's test service on a server with default settings and a health service, as an ordinary
 * Java service is: its own interop server has none. Run from source: {@code java -cp ...
 * StockServer.java PORT}.
 */
final class StockServer {
  public static void main(String[] arguments) throws Exception {
    int port = Integer.parseInt(arguments[0]);
    var timers = Executors.newScheduledThreadPool(1);
    Server server =
        Grpc.newServerBuilderForPort(port, InsecureServerCredentials.create())
            .addService(new TestServiceImpl(timers, MetricRecorder.newInstance()))
            .addService(new HealthStatusManager().getHealthService())
            .build()
            .start();
    server.awaitTermination();
  }
}
